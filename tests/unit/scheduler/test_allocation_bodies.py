"""The patches that leave the scheduler."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.scheduler.allocation import (
    ClaimPlacement,
    Result,
    allocation_config,
    allocation_patch,
    metadata_patch,
    needs_metadata,
    take_back_patch,
    ungate_patch,
)
from tessera.scheduler.objects import read_claim, read_pod

FINALIZER = "resource.kubernetes.io/delete-protection"


@pytest.fixture
def parts(world: Any, request_for: Any) -> Any:
    world.add_claim("c", request_for("2g.20gb"), finalizer=False)
    world.add_pod("p", "c")
    return world


def test_one_patch_holds_the_whole_allocation(parts: Any) -> None:
    claim, pod = read_claim(parts.claims["c"]), read_pod(parts.pods["p"])
    toleration = {"key": "gpu.tessera.dev/unhealthy", "operator": "Exists"}
    placement = ClaimPlacement(
        claim, "node-a", (Result("slice", "node-a", "gpu-x-2g-20gb-0", (toleration,)),)
    )
    body = allocation_patch(placement, pods=[pod], now=1_790_000_000.7, resource_version="77")
    assert body == {
        "metadata": {"uid": "claim-c", "resourceVersion": "77"},
        "status": {
            "allocation": {
                "allocationTimestamp": "2026-09-21T14:13:20Z",
                "devices": {
                    "results": [
                        {
                            "request": "slice",
                            "driver": "gpu.tessera.dev",
                            "pool": "node-a",
                            "device": "gpu-x-2g-20gb-0",
                            "tolerations": [toleration],
                        }
                    ]
                },
                "nodeSelector": {
                    "nodeSelectorTerms": [
                        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node-a"]}]}
                    ]
                },
            },
            "reservedFor": [{"resource": "pods", "name": "p", "uid": "pod-p"}],
        },
    }


def test_the_finalizer_is_added_beside_others_and_the_old_message_goes(parts: Any) -> None:
    parts.claims["c"]["metadata"] |= {
        "finalizers": ["example.com/keep"],
        "annotations": {"tessera.dev/placement-message": "{}"},
    }
    claim = read_claim(parts.claims["c"])
    assert needs_metadata(claim)
    metadata = metadata_patch(claim)["metadata"]
    assert metadata["finalizers"] == ["example.com/keep", FINALIZER]
    assert metadata["annotations"] == {"tessera.dev/placement-message": None}
    assert metadata["resourceVersion"] == claim.resource_version


def test_a_claim_with_finalizer_and_no_message_needs_no_metadata_write(parts: Any, request_for: Any) -> None:
    parts.add_claim("ready", request_for("2g.20gb"))
    assert not needs_metadata(read_claim(parts.claims["ready"]))


def test_taking_back_demands_that_nothing_changed(parts: Any) -> None:
    claim = read_claim(parts.claims["c"])
    assert take_back_patch(claim) == {
        "metadata": {"uid": "claim-c", "resourceVersion": claim.resource_version},
        "status": {"allocation": None, "reservedFor": None},
    }


def test_only_our_gate_is_removed_and_only_where_it_was_seen(parts: Any) -> None:
    parts.add_pod("q", "c", gates=("example.com/quota", "tessera.dev/placement"))
    assert ungate_patch(read_pod(parts.pods["q"])) == [
        {"op": "test", "path": "/metadata/uid", "value": "pod-q"},
        {"op": "test", "path": "/spec/schedulingGates/1/name", "value": "tessera.dev/placement"},
        {"op": "remove", "path": "/spec/schedulingGates/1"},
    ]


def _config(driver: str, *requests: str) -> dict[str, Any]:
    return {"requests": list(requests), "opaque": {"driver": driver, "parameters": {"n": len(requests)}}}


def test_configuration_of_our_driver_for_chosen_requests_is_copied() -> None:
    ours, other = "gpu.tessera.dev", "nic.example.com"
    config = [
        _config(ours),
        _config(ours, "a"),
        _config(ours, "b/small"),
        _config(ours, "z"),
        _config(other),
        _config(ours, "b/big"),
    ]
    copied = allocation_config({"devices": {"config": config}}, ["a", "b/small"])
    assert copied == [{"source": "FromClaim", **config[i]} for i in (0, 1, 2)]
