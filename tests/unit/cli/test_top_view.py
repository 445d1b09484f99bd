"""The picture of `tessera top`: what it says, that it fits, and that it reads without colours."""

from __future__ import annotations

import dataclasses
import json
from io import StringIO
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from tessera.cli.frame import Tile, build_frame, largest_free_profile
from tessera.cli.mosaic import render
from tessera.cli.top import as_svg

Object = dict[str, Any]
FIRST, SECOND = "GPU-1f3c9a2e-aaaa-bbbb-cccc-000000000000", "GPU-2b4d0c11-aaaa-bbbb-cccc-000000000001"


def instance(profile: str, start: int, size: int, state: str, claim: str = "") -> Object:
    slug = profile.replace(".", "-").replace("+", "-")
    found: Object = {
        "device": f"gpu-1f3c9a2e-{slug}-{start}",
        "profile": profile,
        "start": start,
        "size": size,
        "state": state,
    }
    if claim:
        namespace, _, name = claim.rpartition("/")
        found["claim"] = {"namespace": namespace or "default", "name": name, "uid": f"uid-{name}"}
    return found


def gpu(index: int, uuid: str, *instances: Object, **fields: Any) -> Object:
    return {
        "index": index,
        "uuid": uuid,
        "model": "H100-80GB",
        "productName": "NVIDIA H100 80GB HBM3",
        "migMode": "Enabled",
        "memorySlices": 8,
        "computeSlices": 7,
        "healthy": True,
        "instances": list(instances),
    } | fields


def gpunode(name: str, *gpus: Object, ready: bool = True) -> Object:
    condition = {"type": "Ready", "status": "True", "reason": "Published", "message": ""}
    if not ready:
        condition = {
            "type": "Ready",
            "status": "False",
            "reason": "DriverMissing",
            "message": "libnvidia-ml.so.1 is not on this node. Install the NVIDIA driver.",
        }
    return {
        "metadata": {"name": name},
        "status": {
            "conditions": [condition],
            "driver": {"version": "580.65.06", "simulated": True} if ready else None,
            "gpus": list(gpus),
        },
    }


def job(
    name: str, profile: str, reason: str, message: str = "", *, created: int = 0, **status: Any
) -> Object:
    ready = {"type": "Ready", "status": "False", "reason": reason, "message": message}
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "creationTimestamp": f"2026-01-01T00:00:{created:02}Z",
        },
        "spec": {"workload": {"name": "noiser"}, "resources": {"slice": {"profile": profile}}},
        "status": {"conditions": [ready, *status.pop("conditions", [])]} | status,
    }


def claim(name: str, *, device: str = "", node: str = "node-a", job: str = "", said: str = "") -> Object:
    found: Object = {
        "metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}"},
        "spec": {
            "devices": {"requests": [{"name": "slice", "exactly": {"deviceClassName": "slice.tessera.dev"}}]}
        },
        "status": {},
    }
    if job:
        found["metadata"]["labels"] = {"tessera.dev/training-job": job}
    if said:
        found["metadata"]["annotations"] = {
            "tessera.dev/placement-message": json.dumps({"reason": "Unplaceable", "message": said})
        }
    if device:
        result = {"request": "slice", "driver": "gpu.tessera.dev", "pool": node, "device": device}
        found["status"] = {"allocation": {"devices": {"results": [result]}}}
    return found


NO_ROOM = "7g.80gb needs a whole GPU; the freest has 1 of 8 slices free. Stop a job or choose 1g.10gb."


@pytest.fixture
def objects() -> tuple[list[Object], list[Object], list[Object]]:
    nodes = [
        gpunode(
            "node-a",
            gpu(
                0,
                FIRST,
                instance("4g.40gb", 0, 4, "InUse", "big-slice"),
                instance("2g.20gb", 4, 2, "InUse", "small-slice"),
                instance("1g.10gb", 6, 1, "Warm"),
            ),
            gpu(1, SECOND, instance("1g.20gb", 6, 2, "Foreign")),
        ),
        gpunode("node-b", ready=False),
    ]
    jobs = [
        job(
            "noiser-small",
            "2g.20gb",
            "Running",
            created=1,
            progress={"step": 620, "steps": 1000, "loss": 0.0123, "etaSeconds": 12.4},
            placement={"node": "node-a", "start": 4, "claim": "small-slice"},
        ),
        job(
            "noiser-large",
            "4g.40gb",
            "Complete",
            created=2,
            progress={"step": 1000, "steps": 1000},
            placement={"node": "node-a", "start": 0, "claim": "big-slice"},
            conditions=[
                {"type": "Complete", "status": "True", "reason": "Complete", "message": "4 of 4 checks held"}
            ],
            result={"metrics": {"ssim_gain": 0.41, "psnr_gain_db": 6.25}},
        ),
        job(
            "noiser-next",
            "3g.40gb",
            "Starting",
            created=3,
            placement={"node": "node-a", "start": 0, "claim": "next-slice"},
        ),
        job("whole-gpu", "7g.80gb", "Unplaceable", created=4),
        job(
            "mistyped",
            "1g.10gb",
            "InvalidWorkload",
            created=5,
            conditions=[
                {
                    "type": "Failed",
                    "status": "True",
                    "reason": "InvalidWorkload",
                    "message": "unknown parameter stepz of noiser; did you mean steps?",
                }
            ],
        ),
    ]
    claims = [
        claim("small-slice", device="gpu-1f3c9a2e-2g-20gb-4", job="noiser-small"),
        claim("big-slice", device="gpu-1f3c9a2e-4g-40gb-0", job="noiser-large"),
        claim("next-slice", device="gpu-2b4d0c11-3g-40gb-0", job="noiser-next"),
        claim("whole-slice", job="whole-gpu", said=NO_ROOM),
        claim("by-hand", said="The profile 9g.90gb does not exist. Use 7g.80gb."),
    ]
    return nodes, jobs, claims


def plain(objects: tuple[list[Object], list[Object], list[Object]], width: int = 80) -> str:
    console = Console(width=width, file=StringIO(), color_system=None, highlight=False)
    console.print(render(build_frame(*objects), width=width))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 132])
def test_no_line_is_wider_than_the_terminal(objects: Any, width: int) -> None:
    assert max(cell_len(line) for line in plain(objects, width).splitlines()) <= width


def test_tiles_stand_at_their_memory_slices(objects: Any) -> None:
    lines = plain(objects).splitlines()
    row = next(line for line in lines if "GPU 0" in line)
    pitch = (80 - 7 - 1) // 8
    assert [row.index(profile) for profile in ("4g.40gb", "2g.20gb", "1g.10gb")] == [
        7 + slice_ * pitch + 1 for slice_ in (0, 4, 6)
    ]
    assert row[7 + 7 * pitch :].strip() == "░" * (pitch - 1), "the eighth slice is free"
    assert "noiser-small" in lines[lines.index(row) + 1]


def test_an_allocation_is_seen_before_its_instance_is_cut(objects: Any) -> None:
    tiles = build_frame(*objects).nodes[0].gpus[1].tiles
    assert [(tile.start, tile.profile, tile.state, tile.holder) for tile in tiles] == [
        (0, "3g.40gb", "Allocated", "noiser-next"),
        (6, "1g.20gb", "Foreign", ""),
    ]


def test_an_allocation_takes_the_place_of_a_warm_instance() -> None:
    node = gpunode("node-a", gpu(0, FIRST, instance("2g.20gb", 4, 2, "Warm")))
    frame = build_frame([node], [], [claim("new", device="gpu-1f3c9a2e-3g-40gb-4")])
    assert [(tile.profile, tile.state) for tile in frame.nodes[0].gpus[0].tiles] == [("3g.40gb", "Allocated")]


@pytest.mark.parametrize("cut", [False, True], ids=["allocated", "prepared"])
def test_a_gpu_that_is_not_cut_is_one_tile_or_free(cut: bool) -> None:
    held = claim("new", device="gpu-1f3c9a2e-gpu-0")
    there = [instance("gpu", 0, 8, "InUse", "new")] if cut else []
    node = gpunode("node-a", gpu(0, FIRST, *there, migMode="Disabled"), gpu(1, SECOND, migMode="Disabled"))
    first, second = build_frame([node], [], [held]).nodes[0].gpus
    assert [(tile.start, tile.width, tile.profile) for tile in first.tiles] == [(0, 8, "gpu")]
    assert (first.largest_free_profile, second.largest_free_profile) == (None, "gpu")
    text = plain(([node], [], [held]))
    assert "full" in text
    assert "not cut: MIG mode is off" in text


def test_a_waiting_job_says_why(objects: Any) -> None:
    text = " ".join(plain(objects).split())
    assert NO_ROOM in text
    assert "The profile 9g.90gb does not exist. Use 7g.80gb." in text


def test_a_failed_job_says_why_and_a_complete_one_how_its_checks_went(objects: Any) -> None:
    text = plain(objects)
    assert "unknown parameter stepz of noiser; did you mean steps?" in text
    assert "4 of 4 checks held" in text


def test_progress_is_shown_as_steps_time_and_bar(objects: Any) -> None:
    line = next(line for line in plain(objects).splitlines() if "620/1000" in line)
    assert "0:12" in line
    assert "━" * 11 in line
    assert "━" * 12 not in line


def test_a_node_that_is_not_ready_gives_its_reason(objects: Any) -> None:
    text = " ".join(plain(objects).split())
    assert "DriverMissing: libnvidia-ml.so.1 is not on this node. Install the NVIDIA driver." in text


def test_free_room_names_the_largest_profile_that_fits(objects: Any) -> None:
    frame = build_frame(*objects)
    first, second = frame.nodes[0].gpus
    assert (first.free_slices, first.largest_free_profile) == (2, "1g.20gb")
    assert (second.free_slices, second.largest_free_profile) == (2, "2g.20gb")


def test_a_free_slice_that_no_profile_can_use_is_no_room() -> None:
    taken = [
        Tile(0, 4, "4g.40gb", "InUse"),
        Tile(4, 2, "2g.20gb", "InUse"),
        Tile(6, 1, "1g.10gb", "InUse"),
    ]
    assert largest_free_profile("H100-80GB", taken) is None
    assert largest_free_profile("H100-80GB", taken[:2]) == "1g.20gb"
    assert largest_free_profile("a board that nobody knows", []) is None


def test_an_empty_cluster_says_what_to_do() -> None:
    text = plain(([], [], []))
    assert "no agent runs" in text
    assert "kubectl apply -f examples/quickstart/" in text


def test_objects_without_status_are_shown() -> None:
    bare = {"metadata": {"namespace": "team", "name": "new"}, "spec": {}}
    text = plain(([{"metadata": {"name": "node-c"}}], [bare], []))
    assert "team/new" in text
    assert "no agent yet" in text


def test_the_frame_is_plain_data(objects: Any) -> None:
    data = json.loads(json.dumps(dataclasses.asdict(build_frame(*objects))))
    assert data["nodes"][0]["gpus"][0]["tiles"][0]["profile"] == "4g.40gb"


def test_the_picture_needs_no_network(objects: Any) -> None:
    picture = as_svg(build_frame(*objects))
    assert picture.startswith("<svg")
    assert "url(http" not in picture
    assert "@import" not in picture
