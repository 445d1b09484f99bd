"""When something of the fleet moves, only those GPU nodes are asked for whose spec would be another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tessera.api.names import OPERATOR_FIELD_MANAGER
from tessera.controllers.operator import FLEET, Operator, OperatorSettings
from tessera.controllers.plan import Key
from tessera.controllers.worker_pod import WorkerSettings
from tessera.kube.errors import Forbidden
from unit.controllers.partition_objects import gpu_node_object, gpu_report, node, partition_object, uuid_of
from unit.controllers.plan_words import NOW, said


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


async def test_a_gpunode_that_may_not_be_written_is_told_by_its_partition_until_it_may(
    operator: Operator,
) -> None:
    async def get(*_: Any) -> dict[str, Any]:
        return gpu_node_object("n1", gpu_report("n1"))

    async def refuse(*_: Any) -> None:
        raise Forbidden(403, "Forbidden", "the operator may not patch gpunodes")

    async def take(*_: Any) -> None:
        """The object is written."""

    node_key = Key(kind="GPUNode", namespace=None, name="n1")
    (obj,) = operator._caches.partitions.items()

    def ready() -> tuple[str, str, str]:
        return said(operator._plan(Key(kind="MIGPartition", namespace=None, name="p"), obj, NOW), "Ready")

    client: Any = operator._client
    client.get, client.apply = get, refuse
    assert await operator._once(node_key) == ("ReconcileError", 30.0)
    assert ready()[:2] == ("False", "ReconcileError")
    assert "the operator may not patch gpunodes" in ready()[2]
    client.apply = take
    await operator._once(node_key)
    assert ready()[:2] == ("True", "Partitioned")
