"""Which of several nodes in trouble is named, and how."""

from __future__ import annotations

from typing import Any

from tessera.controllers.node_trouble import node_trouble


def node(status: str | None = None, reason: str = "", message: str = "") -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": status, "reason": reason, "message": message}] if status else []
    return {"status": {"conditions": conditions}}


READY = node("True", "Published", "2 of 2 GPUs are published")
MISSING = node("False", "DriverMissing", "install the driver")


def test_nodes_that_are_ready_are_no_trouble() -> None:
    assert node_trouble({}) is None
    assert node_trouble({"a": READY, "b": READY}) is None


def test_the_first_node_that_says_what_is_wrong_is_quoted_and_the_others_are_counted() -> None:
    assert node_trouble({"b": MISSING, "a": READY}) == ("DriverMissing", "node b: install the driver")
    assert node_trouble({"b": MISSING, "a": node()}) == (
        "DriverMissing",
        "node b: install the driver (1 more node is not ready)",
    )
    assert node_trouble({"b": MISSING, "a": node("False", "NoGPUs", "none"), "c": node()}) == (
        "NoGPUs",
        "node a: none (2 more nodes are not ready)",
    )


def test_an_agent_that_has_said_nothing_yet_is_waited_for() -> None:
    assert node_trouble({"a": node()}) == ("Reconciling", "the agent of node a has not reported yet")


def test_a_reason_of_another_version_is_told_as_an_error_with_its_message() -> None:
    assert node_trouble({"a": node("False", "Melted", "call the fire brigade")}) == (
        "NVMLError",
        "node a: call the fire brigade",
    )
