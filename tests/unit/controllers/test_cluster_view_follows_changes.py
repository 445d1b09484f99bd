"""The view of all GPUs is read again in part only, and says what reading all of it would say."""

from __future__ import annotations

import random
from typing import Any

import pytest
from tessera.controllers import caches as module
from tessera.controllers.caches import Caches
from tessera.controllers.gpu_view import gpus_of
from unit.controllers.partition_objects import (
    H100,
    claim_on,
    device_name,
    gpu_node_object,
    gpu_report,
    node,
    resource_slices,
)

NODES = ("n1", "n2", "n3")


def changed(caches: Caches, dice: random.Random) -> None:
    """One object comes, changes or goes."""
    name = dice.choice(NODES)
    kind = dice.choice(["MODIFIED", "MODIFIED", "DELETED"])
    match dice.choice(["GPU node", "slices", "claim"]):
        case "GPU node":
            caches.gpu_nodes._take(kind, gpu_node_object(name, gpu_report(name, healthy=dice.random() < 0.5)))
        case "slices":
            for number, one in enumerate(
                resource_slices(name, 0, H100, generation=dice.randint(1, 3)), start=1
            ):
                caches.slices._take(kind, {"metadata": {"name": f"{name}-{number}"}, **one})
        case _:
            device = device_name(name, 0, "1g.10gb", dice.randrange(7))
            metadata = {"name": f"c{dice.randrange(4)}", "namespace": "default"}
            caches.claims._take(kind, {**claim_on(name, device), "metadata": metadata})


@pytest.mark.parametrize("seed", range(5))
def test_a_view_after_changes_equals_one_of_everything(seed: int) -> None:
    client: Any = None
    caches = Caches(client, on_job=lambda _: None, on_fleet=lambda: None)
    dice = random.Random(seed)
    for _ in range(60):
        changed(caches, dice)
        if dice.random() < 0.5:
            whole = gpus_of(caches.gpu_nodes.items(), caches.slices.items(), caches.claims.items())
            assert caches.cluster_view().gpus == whole


def test_only_the_node_that_moved_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = None
    caches = Caches(client, on_job=lambda _: None, on_fleet=lambda: None)
    for name in NODES:
        caches.gpu_nodes._take("ADDED", gpu_node_object(name, gpu_report(name)))
    caches.cluster_view()
    read: list[str] = []

    def noted(gpu_nodes: Any, *others: Any) -> Any:
        read.extend(one["metadata"]["name"] for one in gpu_nodes)
        return gpus_of(gpu_nodes, *others)

    monkeypatch.setattr(module, "gpus_of", noted)
    caches.gpu_nodes._take("MODIFIED", gpu_node_object("n2", gpu_report("n2", healthy=False)))
    caches.nodes._take("ADDED", node("n3"))
    assert [gpu.healthy for gpu in caches.cluster_view().gpus] == [True, False, True]
    assert read == ["n2"]


@pytest.mark.parametrize(("reason", "looks"), [("KubeletReady", 0), ("NodeStatusUnknown", 1)])
def test_a_heartbeat_moves_nothing_and_a_node_that_goes_silent_does(reason: str, looks: int) -> None:
    client: Any = None
    looked: list[None] = []
    caches = Caches(client, on_job=lambda _: None, on_fleet=lambda: looked.append(None))
    caches.nodes._take("ADDED", node("n1"))
    looked.clear()
    status = {"conditions": [{"type": "Ready", "status": "Unknown", "reason": reason}]}
    caches.nodes._take("MODIFIED", node("n1") | {"status": status})
    assert len(looked) == looks


def test_a_report_that_makes_no_gpu_leaves_out_its_own_node_only() -> None:
    client: Any = None
    caches = Caches(client, on_job=lambda _: None, on_fleet=lambda: None)
    for name in NODES:
        report = gpu_node_object(name, gpu_report(name))
        if name == "n2":
            report["status"]["models"][0]["profiles"] = []
        caches.gpu_nodes._take("ADDED", report)
    assert [gpu.node for gpu in caches.cluster_view().gpus] == ["n1", "n3"]
    caches.gpu_nodes._take("MODIFIED", gpu_node_object("n2", gpu_report("n2")))
    assert [gpu.node for gpu in caches.cluster_view().gpus] == list(NODES)
