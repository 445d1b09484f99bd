"""A claim that a node's agent could not prepare is found by the training job that owns it."""

from __future__ import annotations

from typing import Any

import pytest
from tessera.controllers.caches import Caches
from tessera.controllers.plan import Key

JOB = Key(kind="HeterogeneousTrainingJob", namespace="default", name="train")


def node(*failures: tuple[str, str, str]) -> dict[str, Any]:
    """A GPUNode that names these claims (name, UID, message)."""
    entries = [
        {"claim": {"namespace": "default", "name": name, "uid": uid}, "message": message, "since": "x"}
        for name, uid, message in failures
    ]
    return {"metadata": {"name": "n1"}, "status": {"prepareFailures": entries} if entries else {}}


@pytest.fixture
def seen() -> list[Key]:
    return []


@pytest.fixture
def caches(seen: list[Key]) -> Caches:
    """Caches that know one claim of a training job, which holds a device of node n1."""
    client: Any = None
    made = Caches(client, on_job=seen.append, on_fleet=lambda: None)
    results = [{"driver": "gpu.tessera.dev", "pool": "n1", "device": "d", "request": "slice"}]
    made.claims._take(
        "ADDED",
        {
            "metadata": {
                "name": "c",
                "namespace": "default",
                "uid": "uid-c",
                "labels": {"tessera.dev/training-job": "train"},
            },
            "status": {"allocation": {"devices": {"results": results}}},
        },
    )
    seen.clear()
    return made


def failures(caches: Caches) -> dict[str, str]:
    return dict(caches.training_view("default", "train", None).prepare_failures)


def test_the_job_is_looked_at_when_a_failure_of_its_claim_comes_changes_and_goes(
    caches: Caches, seen: list[Key]
) -> None:
    for failing, told in (
        ((("c", "uid-c", "in use"),), True),
        ((("c", "uid-c", "in use"),), False),
        ((("c", "uid-c", "in use"), ("other", "uid-o", "lost")), False),
        ((("c", "uid-c", "GPU is lost"),), True),
        ((), True),
    ):
        seen.clear()
        caches.gpu_nodes._take("MODIFIED", node(*failing))
        assert bool(seen) is told
        assert set(seen) <= {JOB}
        assert failures(caches) == {uid: message for _, uid, message in failing if uid == "uid-c"}


def test_a_node_that_goes_takes_its_failures_along(caches: Caches, seen: list[Key]) -> None:
    caches.gpu_nodes._take("ADDED", node(("c", "uid-c", "in use")))
    seen.clear()
    caches.gpu_nodes._take("DELETED", node(("c", "uid-c", "in use")))
    assert seen == [JOB]
    assert failures(caches) == {}


def test_a_failure_of_an_earlier_claim_of_that_name_is_not_this_ones(caches: Caches) -> None:
    caches.gpu_nodes._take("ADDED", node(("c", "uid-of-the-one-before", "in use")))
    assert failures(caches) == {}
