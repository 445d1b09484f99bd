"""Each rule of the invariant checker catches what it must, and nothing else."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from invariants import (
    MISSING_DEVICE_GRACE_SECONDS,
    OWNERLESS_GRACE_SECONDS,
    Grace,
    Violation,
    check,
    devices_of,
    judge,
)

GPU = "GPU-1f3c9a2e-0000-0000-0000-000000000000"
Object = dict[str, Any]


def device(profile: str, start: int, width: int) -> Object:
    return {
        "name": f"gpu-1f3c9a2e-{profile.replace('.', '-')}-{start}",
        "attributes": {
            "gpuUUID": {"string": GPU},
            "start": {"int": start},
            "memorySlices": {"int": width},
            "profile": {"string": profile},
        },
    }


def resource_slice(*devices: Object, generation: int = 1, driver: str = "gpu.tessera.dev") -> Object:
    return {
        "metadata": {"name": f"n1-{generation}"},
        "spec": {
            "driver": driver,
            "pool": {"name": "n1", "generation": generation, "resourceSliceCount": 1},
            "devices": list(devices),
        },
    }


def claim(name: str, *devices: str, driver: str = "gpu.tessera.dev") -> Object:
    results = [{"request": "slice", "driver": driver, "pool": "n1", "device": found} for found in devices]
    status: Object = {"allocation": {"devices": {"results": results}}} if devices else {}
    return {"metadata": {"namespace": "default", "name": name, "uid": f"uid-{name}"}, "status": status}


def instance(device_name: str, start: int, size: int, state: str, owner: str | None = None) -> Object:
    found: Object = {"device": device_name, "start": start, "size": size, "state": state}
    if owner is not None:
        found["claim"] = {"namespace": "default", "name": owner, "uid": f"uid-{owner}"}
    return found


def gpunode(*instances: Object) -> Object:
    return {
        "metadata": {"name": "n1"},
        "status": {"gpus": [{"uuid": GPU, "memorySlices": 8, "instances": list(instances)}]},
    }


TWO, THREE, WHOLE = device("2g.20gb", 4, 2), device("3g.40gb", 4, 4), device("7g.80gb", 0, 8)
BOTH = resource_slice(TWO, THREE, WHOLE, device("3g.40gb", 0, 4))
LOW_THREE = "gpu-1f3c9a2e-3g-40gb-0"


NOT_CUT = device("gpu", 0, 8)


def rules(violations: list[Violation]) -> list[str]:
    return [violation.rule for violation in violations]


def test_neighbours_on_one_gpu_are_no_violation() -> None:
    claims = [claim("a", TWO["name"]), claim("b", LOW_THREE), claim("c")]
    node = gpunode(
        instance(TWO["name"], 4, 2, "InUse", "a"),
        instance(LOW_THREE, 0, 4, "InUse", "b"),
        instance("gpu-1f3c9a2e-1g-10gb-6", 6, 1, "Warm"),
    )
    assert check(claims, [BOTH], [node]) == []


def test_two_claims_on_overlapping_placements() -> None:
    found = check([claim("a", TWO["name"]), claim("b", THREE["name"])], [BOTH], [])
    assert rules(found) == ["overlapping claims"]
    assert "default/a" in str(found[0])
    assert "default/b" in str(found[0])
    assert found[0].grace_seconds == 0


def test_two_claims_on_the_same_device() -> None:
    assert rules(check([claim("a", TWO["name"]), claim("b", TWO["name"])], [BOTH], [])) == [
        "overlapping claims"
    ]


def test_one_claim_that_overlaps_itself() -> None:
    assert rules(check([claim("a", TWO["name"], WHOLE["name"])], [BOTH], [])) == ["overlapping claims"]


def test_a_claim_being_deleted_still_holds_its_device() -> None:
    leaving = claim("a", TWO["name"])
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert rules(check([leaving, claim("b", THREE["name"])], [BOTH], [])) == ["overlapping claims"]


def test_other_drivers_are_not_judged() -> None:
    other = resource_slice(device("2g.20gb", 4, 2), driver="gpu.example.com")
    foreign = [
        claim("a", TWO["name"], driver="gpu.example.com"),
        claim("b", "nic-0", driver="nic.example.com"),
    ]
    assert check(foreign, [other], []) == []


def test_overlap_with_a_device_that_is_no_longer_published() -> None:
    claims = [claim("a", TWO["name"]), claim("b", THREE["name"])]
    now = devices_of([resource_slice(TWO)])
    assert "overlapping claims" in rules(judge(claims, now, [], known=devices_of([BOTH])))


def test_a_claim_on_a_device_that_no_slice_has() -> None:
    found = check([claim("a", "gpu-ffffffff-2g-20gb-4")], [BOTH], [])
    assert rules(found) == ["missing device"]
    assert found[0].grace_seconds == MISSING_DEVICE_GRACE_SECONDS


def test_only_the_newest_generation_of_a_pool_counts() -> None:
    found = check([claim("a", TWO["name"])], [BOTH, resource_slice(THREE, generation=2)], [])
    assert rules(found) == ["missing device"]


@pytest.mark.parametrize(
    ("owner", "claims"),
    [
        (None, []),
        ("gone", []),
        ("a", [claim("a")]),
        ("a", [claim("a", LOW_THREE)]),
    ],
    ids=["no claim named", "claim deleted", "claim not allocated", "claim holds another device"],
)
def test_an_instance_in_use_that_no_claim_holds(owner: str | None, claims: list[Object]) -> None:
    found = check(claims, [BOTH], [gpunode(instance(TWO["name"], 4, 2, "InUse", owner))])
    assert rules(found) == ["instance without an owner"]
    assert found[0].grace_seconds == OWNERLESS_GRACE_SECONDS


def test_a_warm_instance_needs_no_owner() -> None:
    assert check([], [BOTH], [gpunode(instance(TWO["name"], 4, 2, "Warm"))]) == []


def test_a_foreign_instance_may_not_stay() -> None:
    found = check([], [BOTH], [gpunode(instance(TWO["name"], 4, 2, "Foreign"))])
    assert rules(found) == ["foreign instance"]
    assert found[0].grace_seconds == OWNERLESS_GRACE_SECONDS


def test_overlapping_instances_of_a_node() -> None:
    node = gpunode(instance(TWO["name"], 4, 2, "Warm"), instance(THREE["name"], 4, 4, "Warm"))
    assert rules(check([], [BOTH], [node])) == ["overlapping instances"]


def test_a_node_without_status_is_no_violation() -> None:
    assert check([], [], [{"metadata": {"name": "n1"}}]) == []


def test_grace_is_for_what_passes() -> None:
    grace = Grace()
    late = Violation("missing device", "a", "a is missing", 5.0)
    assert grace.judge([late], now=0) == []
    assert grace.judge([], now=3) == []
    assert grace.judge([copy.copy(late)], now=6) == []
    assert grace.judge([late], now=10.9) == []
    assert grace.judge([late], now=11) == [late]
    assert grace.judge([late], now=12) == [], "told once"


def test_what_has_no_grace_counts_at_once() -> None:
    overlap = Violation("overlapping claims", "a / b", "a overlaps b")
    assert Grace().judge([overlap], now=0) == [overlap]


def test_a_gpu_that_is_held_as_a_whole_is_held_once() -> None:
    slices = [resource_slice(NOT_CUT)]
    assert check([claim("a", NOT_CUT["name"])], slices, []) == []
    both = [claim("a", NOT_CUT["name"]), claim("b", NOT_CUT["name"])]
    assert rules(check(both, slices, [])) == ["overlapping claims"]


def test_a_gpu_that_is_held_as_a_whole_is_not_cut() -> None:
    """Not even when its slices are published only after it was."""
    known = devices_of([resource_slice(NOT_CUT)]) | devices_of([BOTH])
    claims = [claim("a", NOT_CUT["name"]), claim("b", TWO["name"])]
    assert rules(judge(claims, known, [], known=known)) == ["overlapping claims"]
    cut = gpunode(instance(NOT_CUT["name"], 0, 8, "InUse", "a"), instance(TWO["name"], 4, 2, "Warm"))
    assert rules(check(claims[:1], [resource_slice(NOT_CUT)], [cut])) == ["overlapping instances"]
