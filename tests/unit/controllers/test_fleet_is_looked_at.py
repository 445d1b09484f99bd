"""When something of the fleet moves, only those GPU nodes are asked for whose spec would be another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tessera.api.names import OPERATOR_FIELD_MANAGER
from tessera.controllers.operator import FLEET, Operator, OperatorSettings
from tessera.controllers.worker_pod import WorkerSettings
from unit.controllers.partition_objects import gpu_node_object, gpu_report, node, partition_object, uuid_of


@pytest.fixture
def operator() -> Operator:
    """Two nodes of one partition; the GPUNode of the second says already that its GPU belongs there."""
    client: Any = SimpleNamespace(field_manager=OPERATOR_FIELD_MANAGER)
    made = Operator(client, OperatorSettings(worker=WorkerSettings(image="worker:1")))
    caches = made._caches
    caches.partitions._take("ADDED", partition_object("p"))
    for name in ("n1", "n2"):
        caches.nodes._take("ADDED", node(name))
        caches.gpu_nodes._take("ADDED", gpu_node_object(name, gpu_report(name)))
    settled = gpu_node_object("n2", gpu_report("n2"))
    entry = {"uuid": uuid_of("n2", 0), "partition": "p", "migMode": "Enabled"}
    caches.gpu_nodes._take("MODIFIED", settled | {"spec": {"gpus": [entry]}})
    return made


async def test_partitions_and_nodes_that_would_change_are_reconciled(operator: Operator) -> None:
    assert await operator._once(FLEET) == ("ok", None)
    assert {str(key) for key in operator._queue._dirty} == {"MIGPartition p", "GPUNode n1"}


async def test_a_node_without_a_partition_loses_what_it_had(operator: Operator) -> None:
    operator._caches.partitions._take("DELETED", partition_object("p"))
    await operator._once(FLEET)
    assert {str(key) for key in operator._queue._dirty} == {"GPUNode n2"}
