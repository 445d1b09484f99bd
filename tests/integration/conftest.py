"""The operator and an agent as tests of real API servers run them: the operator in the process of the test,
the agent in one of its own that a test may kill.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import AsyncIterator

import pytest
from background import in_background
from integration.agent_process import AgentProcess
from tessera.api import names
from tessera.controllers.operator import Operator, OperatorSettings
from tessera.controllers.worker_pod import WorkerSettings
from tessera.kube.client import KubeClient
from tessera.kube.resources import NODES
from tessera.local.control_plane import ControlPlane
from tessera.metrics.registry import UNHANDLED_ERRORS_TOTAL


@pytest.fixture
async def operator(control_plane: ControlPlane) -> AsyncIterator[Operator]:
    """A running operator of this test's own; whatever it was given, it ended in no traceback."""
    unforeseen = _unforeseen_errors()
    async with await KubeClient.connect(
        kubeconfig=control_plane.kubeconfig, field_manager=names.OPERATOR_FIELD_MANAGER
    ) as client:
        running = Operator(
            client,
            OperatorSettings(
                worker=WorkerSettings(image="tessera/worker:test"), kubeconfig=control_plane.kubeconfig
            ),
        )
        async with in_background(running.run()):
            yield running
    assert _unforeseen_errors() == unforeseen, "see the log for the traceback"


def _unforeseen_errors() -> float:
    """Of all loops of this process."""
    (counter,) = UNHANDLED_ERRORS_TOTAL.collect()
    return sum(sample.value for sample in counter.samples if sample.name.endswith("_total"))


@pytest.fixture
async def agent(
    admin: KubeClient,
    control_plane: ControlPlane,
    namespace: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[AgentProcess]:
    """An agent that the test starts, on a node of its own; killed at the end if it still runs."""
    node = f"agent-{uuid.uuid4().hex[:8]}"
    await admin.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})
    process = AgentProcess(
        client=admin,
        kubeconfig=control_plane.kubeconfig,
        directory=tmp_path_factory.mktemp("a"),
        namespace=namespace,
        node=node,
    )
    yield process
    for channel in process.channels:
        await channel.close()
    if process.process is not None:
        await process.end(signal.SIGKILL)
    await admin.delete(NODES, node)
