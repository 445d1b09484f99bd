"""Small pure parts: resources, event objects, log lines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from tessera.kube.events import event_object
from tessera.kube.logging import about, setup_logging
from tessera.kube.resources import (
    ALL,
    CLUSTER_ROLES,
    GPU_NODES,
    JOBS,
    NODES,
    PODS,
    RESOURCE_CLAIMS,
    resource_for,
)
from yarl import URL

CLAIM = {
    "apiVersion": "resource.k8s.io/v1",
    "kind": "ResourceClaim",
    "metadata": {"namespace": "team", "name": "c", "uid": "u-1", "resourceVersion": "5"},
}


def test_paths() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert (
        PODS.path(namespace="a", name="p", subresource="eviction") == "/api/v1/namespaces/a/pods/p/eviction"
    )
    assert NODES.path(name="n") == "/api/v1/nodes/n"
    assert GPU_NODES.path(name="n", subresource="status") == "/apis/tessera.dev/v1alpha1/gpunodes/n/status"
    assert CLUSTER_ROLES.path(name="system:n").endswith("/clusterroles/system:n")


@pytest.mark.parametrize("name", ["../../../../../../api/v1/pods", "a?watch=1", "a#b", "a%2f..", "a/status"])
def test_a_name_cannot_choose_another_url(name: str) -> None:
    """Whoever makes a pod writes any name of an owner into it, and the scheduler asks for that Job."""
    jobs = "/apis/batch/v1/namespaces/team/jobs/"
    url = URL("https://server" + JOBS.path(namespace="team", name=name))
    assert (url.path, url.query_string, url.fragment) == (jobs + name, "", "")
    assert url.raw_path.startswith(jobs) and "/" not in url.raw_path.removeprefix(jobs)


def test_every_resource_is_found_by_its_objects() -> None:
    for resource in ALL:
        assert resource_for({"apiVersion": resource.api_version, "kind": resource.kind}) is resource
    assert resource_for(CLAIM) is RESOURCE_CLAIMS


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(LookupError, match="FluxCapacitor"):
        resource_for({"apiVersion": "v1", "kind": "FluxCapacitor"})


def test_an_event_names_its_object() -> None:
    event = event_object(
        CLAIM,
        type="Warning",
        reason="Unplaceable",
        action="Placing",
        message="ü" * 2000,
        controller="tessera.dev/scheduler",
        instance="pod-1",
    )
    assert event["metadata"]["namespace"] == "team"
    assert event["metadata"]["name"].startswith("c.")
    assert event["regarding"]["uid"] == "u-1"
    assert len(event["note"].encode()) <= 1024
    assert set(event["note"]) == {"ü"}


def test_an_event_on_a_cluster_scoped_object_lives_in_default() -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n" * 253}}
    event = event_object(
        node, type="Normal", reason="R", action="A", message="", controller="c", instance="i"
    )
    assert event["metadata"]["namespace"] == "default"
    assert len(event["metadata"]["name"]) <= 253
    assert "namespace" not in event["regarding"]


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_log_line_is_json_with_the_object_beside_it(root_logger: logging.Logger) -> None:
    stream = io.StringIO()
    setup_logging("scheduler", stream=stream, level="info")
    logging.getLogger("tessera.scheduler").info("placed on %s", "n1", extra=about(CLAIM))
    logging.getLogger("tessera.scheduler").debug("not shown")
    try:
        raise ValueError("boom")
    except ValueError:
        logging.getLogger("x").exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first["message"] == "placed on n1"
    assert (first["process"], first["level"]) == ("scheduler", "info")
    assert (first["kind"], first["namespace"], first["name"], first["uid"]) == (
        "ResourceClaim",
        "team",
        "c",
        "u-1",
    )
    assert "ValueError: boom" in second["traceback"]


def test_a_terminal_gets_plain_text(root_logger: logging.Logger) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    setup_logging("scheduler", stream=stream)
    logging.getLogger("x").warning("hello")
    assert stream.getvalue().endswith("WARNING x: hello\n")
