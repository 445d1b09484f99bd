"""ResourceSlices as a pure function of the node's GPUs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tessera.agent.devices import (
    COUNTER_SETS_PER_SLICE,
    DEVICES_PER_SLICE,
    Offer,
    Owner,
    content_hash,
    slices_for,
)
from tessera.agent.health import Ailment
from tessera.api import names
from tessera.gpu.driver import GPU
from tessera.gpu.nvml import NVML
from tessera.gpu.profiles import Placement, models
from tessera.gpu.simulator.library import SimulatedLibrary
from tessera.gpu.xids import Harm

OWNER = Owner(name="node-a", uid="uid-node-a")


def gpus_of(directory: Path, model: str, count: int) -> list[GPU]:
    nvml = NVML(SimulatedLibrary.at(directory, model=model, count=count, seed=model))
    for gpu in nvml.inventory().gpus:
        nvml.set_mig_mode(gpu.uuid, True)
    return list(nvml.inventory().gpus)


def devices_of(slices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [device for item in slices for device in item["spec"].get("devices", [])]


def counters_of(slices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [counters for item in slices for counters in item["spec"].get("sharedCounters", [])]


@pytest.mark.parametrize(("model", "devices"), [("H100-80GB", 25), ("A30-24GB", 13), ("RTXPRO6000-96GB", 30)])
def test_every_legal_placement_is_one_device(tmp_path: Path, model: str, devices: int) -> None:
    slices = slices_for(OWNER, gpus_of(tmp_path, model, 1), generation=1)
    names = [device["name"] for device in devices_of(slices)]
    assert len(names) == len(set(names)) == devices


def test_one_device_in_full(tmp_path: Path) -> None:
    (gpu,) = gpus_of(tmp_path, "H100-80GB", 1)
    short = gpu.uuid[4:12]
    slices = slices_for(OWNER, [gpu], generation=3)
    device = next(item for item in devices_of(slices) if item["name"] == f"gpu-{short}-2g-20gb-4")
    assert device == {
        "name": f"gpu-{short}-2g-20gb-4",
        "attributes": {
            "profile": {"string": "2g.20gb"},
            "start": {"int": 4},
            "memorySlices": {"int": 2},
            "computeSlices": {"int": 2},
            "gpuMemorySlices": {"int": 8},
            "gpuUUID": {"string": gpu.uuid},
            "gpuIndex": {"int": 0},
            "model": {"string": "H100-80GB"},
            "productName": {"string": "NVIDIA H100 80GB HBM3"},
        },
        "capacity": {"memory": {"value": "20090Mi"}, "multiprocessors": {"value": "32"}},
        "consumesCounters": [
            {
                "counterSet": f"gpu-{short}",
                "counters": {
                    "memory-slice-4": {"value": "1"},
                    "memory-slice-5": {"value": "1"},
                    "compute-slices": {"value": "2"},
                },
            }
        ],
        "taints": [{"key": "tessera.dev/managed", "value": "true", "effect": "NoSchedule"}],
    }


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 20])
def test_the_api_servers_limits_hold(tmp_path: Path, count: int) -> None:
    slices = slices_for(OWNER, gpus_of(tmp_path, "H100-80GB", count), generation=7)
    for item in slices:
        spec = item["spec"]
        assert ("sharedCounters" in spec) != ("devices" in spec)
        assert 0 < len(spec.get("sharedCounters", [0])) <= COUNTER_SETS_PER_SLICE
        assert 0 < len(spec.get("devices", [0])) <= DEVICES_PER_SLICE
        assert spec["pool"] == {"name": "node-a", "generation": 7, "resourceSliceCount": len(slices)}
    assert len(devices_of(slices)) == 25 * count
    assert len({counters["name"] for counters in counters_of(slices)}) == count
    assert len({item["metadata"]["name"] for item in slices}) == len(slices)


@pytest.mark.parametrize("model", sorted(models()))
def test_counters_allow_exactly_the_pairs_that_fit_together(tmp_path: Path, model: str) -> None:
    """Two devices may be allocated together if and only if a driver could hold both placements."""
    (gpu,) = gpus_of(tmp_path, model, 1)
    assert gpu.model is not None
    slices = slices_for(OWNER, [gpu], generation=1)
    (shared,) = counters_of(slices)
    capacity = {name: int(value["value"]) for name, value in shared["counters"].items()}
    by_name = {device["name"]: device for device in devices_of(slices)}
    assert len(capacity) <= 32
    for one in by_name.values():
        for other in by_name.values():
            used: Counter[str] = Counter()
            for device in (one, other):
                for name, value in device["consumesCounters"][0]["counters"].items():
                    used[name] += int(value["value"])
            allowed = all(used[name] <= capacity[name] for name in used)
            assert allowed == _fit(gpu, one, other), (one["name"], other["name"])


def _fit(gpu: GPU, one: dict[str, Any], other: dict[str, Any]) -> bool:
    assert gpu.model is not None
    a, b = (
        Placement(
            gpu.model.profile(item["attributes"]["profile"]["string"]), item["attributes"]["start"]["int"]
        )
        for item in (one, other)
    )
    if a.overlaps(b) or a.profile.compute_slices + b.profile.compute_slices > gpu.model.compute_slices:
        return False
    if a.profile.media_extensions and b.profile.media_extensions:
        return False
    for mine, theirs in ((a.profile, b.profile), (b.profile, a.profile)):
        if mine.all_media and not theirs.no_media:
            return False
    return True


def test_a_gpu_without_mig_mode_is_one_device(tmp_path: Path) -> None:
    cut, gpu = gpus_of(tmp_path, "H100-80GB", 2)
    slices = slices_for(OWNER, [cut, replace(gpu, mig_current=False)], generation=1)
    short, every = gpu.uuid[4:12], {f"memory-slice-{number}": {"value": "1"} for number in range(8)}
    (whole,) = (d for d in devices_of(slices) if d["attributes"]["gpuUUID"]["string"] == gpu.uuid)
    assert whole == {
        "name": f"gpu-{short}-gpu-0",
        "attributes": {
            "profile": {"string": "gpu"},
            "start": {"int": 0},
            "memorySlices": {"int": 8},
            "computeSlices": {"int": 7},
            "gpuMemorySlices": {"int": 8},
            "gpuUUID": {"string": gpu.uuid},
            "gpuIndex": {"int": 1},
            "model": {"string": "H100-80GB"},
            "productName": {"string": "NVIDIA H100 80GB HBM3"},
        },
        "capacity": {"memory": {"value": f"{gpu.memory_mib}Mi"}, "multiprocessors": {"value": "132"}},
        "consumesCounters": [
            {"counterSet": f"gpu-{short}", "counters": every | {"compute-slices": {"value": "7"}}}
        ],
        "taints": [{"key": "tessera.dev/managed", "value": "true", "effect": "NoSchedule"}],
    }
    assert len(devices_of(slices)) == 25 + 1
    assert counters_of(slices)[1] == {
        "name": f"gpu-{short}",
        "counters": whole["consumesCounters"][0]["counters"],
    }


def test_a_gpu_that_is_neither_cut_nor_offered_is_not_published(tmp_path: Path) -> None:
    (gpu,) = gpus_of(tmp_path, "H100-80GB", 1)
    offers = {gpu.uuid: Offer(frozenset(), frozenset())}
    assert slices_for(OWNER, [replace(gpu, mig_current=False)], generation=1, offers=offers) == []


def test_a_gpu_that_is_no_board_for_mig_is_not_published(tmp_path: Path) -> None:
    (gpu,) = gpus_of(tmp_path, "H100-80GB", 1)
    assert slices_for(OWNER, [replace(gpu, mig_current=False, model=None)], generation=1) == []


def test_a_lost_gpu_stays_listed_with_the_taint_that_ends_its_pods(tmp_path: Path) -> None:
    lost, well = gpus_of(tmp_path, "H100-80GB", 2)
    before = devices_of(slices_for(OWNER, [lost, well], generation=1))
    ailments = {lost.uuid: (Ailment("lost", "fell off the bus", Harm.RESET),)}
    devices = devices_of(
        slices_for(OWNER, [replace(lost, fault="GPU_IS_LOST"), well], generation=1, ailments=ailments)
    )
    taint = {"key": names.UNHEALTHY_TAINT_KEY, "value": "lost", "effect": "NoExecute"}
    for device, healthy in zip(devices, before, strict=True):
        of_lost = device["attributes"]["gpuUUID"]["string"] == lost.uuid
        assert device["taints"] == [*healthy["taints"], *([taint] if of_lost else [])]
        assert {**device, "taints": healthy["taints"]} == healthy


def test_what_an_error_has_struck_bars_the_devices_that_overlap_it(tmp_path: Path) -> None:
    (gpu,) = gpus_of(tmp_path, "H100-80GB", 1)
    ailments = {
        gpu.uuid: (
            Ailment("xid-94", "contained", Harm.INSTANCE, mask=0b110000),
            Ailment("unheard", "no events", Harm.NONE),
        )
    }
    tainted = {
        (device["attributes"]["profile"]["string"], device["attributes"]["start"]["int"])
        for device in devices_of(slices_for(OWNER, [gpu], generation=1, ailments=ailments))
        if {"key": names.UNHEALTHY_TAINT_KEY, "value": "xid-94", "effect": "NoSchedule"} in device["taints"]
    }
    assert tainted == {
        *(("1g.10gb", start) for start in (4, 5)),
        *(("1g.10gb+me", start) for start in (4, 5)),
        ("1g.20gb", 4),
        ("2g.20gb", 4),
        ("3g.40gb", 4),
        ("7g.80gb", 0),
    }


def test_the_worst_of_several_ailments_is_the_taint(tmp_path: Path) -> None:
    (gpu,) = gpus_of(tmp_path, "H100-80GB", 1)
    several = [
        Ailment("xid-74", "", Harm.DRAIN),
        Ailment("xid-95", "", Harm.RESET),
        Ailment("xid-94", "", Harm.INSTANCE, mask=0b1),
    ]
    (value,) = {
        taint["value"]
        for device in devices_of(slices_for(OWNER, [gpu], generation=1, ailments={gpu.uuid: tuple(several)}))
        for taint in device["taints"]
        if taint["key"] == names.UNHEALTHY_TAINT_KEY
    }
    assert value == "xid-95"


def test_a_gpu_offers_no_more_than_its_layout_and_what_leaves_is_tainted(tmp_path: Path) -> None:
    first, second = gpus_of(tmp_path, "H100-80GB", 2)
    short = first.uuid[4:12]
    stays, leaves = f"gpu-{short}-3g-40gb-0", f"gpu-{short}-2g-20gb-4"
    offers = {first.uuid: Offer(devices=frozenset({stays, leaves}), leaving=frozenset({leaves}))}
    slices = slices_for(OWNER, [first, second], generation=1, offers=offers)
    taints = {device["name"]: [taint["key"] for taint in device["taints"]] for device in devices_of(slices)}
    assert len(taints) == 2 + 25
    assert taints[stays] == [names.DEVICE_TAINT_KEY]
    assert taints[leaves] == [names.DEVICE_TAINT_KEY, names.LEAVING_TAINT_KEY]


def test_a_gpu_with_an_empty_layout_is_published_without_devices(tmp_path: Path) -> None:
    """Its counters stay, so that readers know the GPU."""
    (gpu,) = gpus_of(tmp_path, "H100-80GB", 1)
    (only,) = slices_for(OWNER, [gpu], generation=1, offers={gpu.uuid: Offer(frozenset(), frozenset())})
    assert only["spec"]["pool"]["resourceSliceCount"] == len(only["spec"]["sharedCounters"]) == 1
    assert "devices" not in only["spec"]


def test_the_content_ignores_the_generation_and_nothing_else(tmp_path: Path) -> None:
    gpus = gpus_of(tmp_path, "H100-80GB", 2)
    one, two = (slices_for(OWNER, gpus, generation=generation) for generation in (1, 2))
    assert content_hash(one) == content_hash(two)
    assert content_hash(one) != content_hash(slices_for(OWNER, gpus[:1], generation=1))
