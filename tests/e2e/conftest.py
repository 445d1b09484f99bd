"""The whole of Tessera on a local cluster: as root a real kubelet and images, otherwise KWOK nodes.

One cluster serves the whole run; every test gets a namespace of its own, and the invariant checker watches
the claims, the ResourceSlices and the GPUNodes from the first test to the last.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from as_a_user import SYSTEM, Kubectl, Reader
from invariants import InvariantChecker
from tessera.gpu.simulator.faults import FaultInjector
from tessera.local.host import can_have_node
from tessera.local.stack import Stack, StackSettings, bring_up, take_down


def pytest_report_header() -> str:
    """Which of the two modes this run is in."""
    if can_have_node():
        return "end-to-end tests: a real node; kubelet, containers and images are real"
    return (
        "end-to-end tests: KWOK mode (not root, or without CAP_SYS_ADMIN and CAP_NET_ADMIN): nodes are "
        "simulated, no container runs, and the tests that need a kubelet are skipped"
    )


@pytest.fixture(scope="session")
def stack(cluster_directory: Path) -> Iterator[Stack]:
    """Set TESSERA_E2E_KEEP to a name to use, or to make and keep, the cluster of that name."""
    kept = os.environ.get("TESSERA_E2E_KEEP")
    settings = StackSettings(name=kept or f"e2e-{os.getpid()}", state_dir=cluster_directory, namespace=SYSTEM)
    try:
        yield bring_up(settings)
    finally:
        if not kept:
            take_down(settings)


@pytest.fixture(scope="session")
def invariants(stack: Stack) -> Iterator[InvariantChecker]:
    with InvariantChecker(stack.kubeconfig) as checker:
        yield checker
    assert checker.violations == [], "\n".join(checker.violations)


@pytest.fixture
def kubectl(stack: Stack, invariants: InvariantChecker) -> Iterator[Kubectl]:
    """kubectl in a fresh namespace; what it holds goes at the end; no violation may have been seen."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    with closing(Reader(stack.kubeconfig)) as reader:
        cluster = Kubectl(stack.kubectl, stack.kubeconfig, reader)
        cluster.run("create", "namespace", name)
        yield cluster.in_namespace(name)
        cluster.run("delete", "namespace", name, "--wait=false")
    assert invariants.violations == [], "\n".join(invariants.violations)


@pytest.fixture
def real_node(stack: Stack) -> Stack:
    """Tests about a kubelet and containers; KWOK nodes have neither."""
    if not stack.real_node:
        pytest.skip("KWOK mode: no kubelet and no containers to break")
    return stack


@pytest.fixture
def faults(real_node: Stack) -> Iterator[FaultInjector]:
    """Faults of the node's simulated driver; none is left for the next test."""
    injector = FaultInjector(real_node.agent_state_directory / "simulator")
    yield injector
    injector.set([])
