"""`tessera operator` as a process with no more rights than the chart gives it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from eventually import eventually
from integration.operator_process import grant_chart_rights, run_operator
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.resources import HETEROGENEOUS_TRAINING_JOBS, JOBS, LEASES, MIG_PARTITIONS
from tessera.local.control_plane import ControlPlane

pytestmark = pytest.mark.integration

Object = dict[str, Any]


def training_job(namespace: str, name: str, **spec: Any) -> Object:
    return {
        "apiVersion": names.API_VERSION,
        "kind": "HeterogeneousTrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"workload": {"name": "noiser"}, "resources": {"slice": {"profile": "2g.20gb"}}, **spec},
    }


async def test_the_charts_rights_are_enough_and_a_stand_by_takes_over(
    admin: KubeClient, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = grant_chart_rights(control_plane, namespace, tmp_path)

    async def holder() -> str | None:
        try:
            lease = await admin.get(LEASES, names.OPERATOR_LEASE, namespace)
        except NotFound:
            return None
        found: str | None = lease["spec"].get("holderIdentity")
        return found

    async def has_job(name: str) -> bool:
        jobs = await admin.list(JOBS, namespace)
        return any(job["metadata"]["name"] == name for job in jobs.items)

    common: dict[str, Any] = {"namespace": namespace, "directory": tmp_path}
    async with run_operator(kubeconfig, identity="first", **common) as first:
        await eventually("the first replica takes the Lease", holder)
        async with run_operator(kubeconfig, identity="second", **common) as second:

            async def stand_by_is_ready() -> bool:
                return (await second.get("/readyz"))[0] == 200

            await eventually("the stand-by answers", stand_by_is_ready)
            await admin.create(HETEROGENEOUS_TRAINING_JOBS, training_job(namespace, "one"))
            await admin.create(
                MIG_PARTITIONS,
                {
                    "apiVersion": names.API_VERSION,
                    "kind": "MIGPartition",
                    "metadata": {"name": namespace},
                    "spec": {"nodeSelector": {"matchLabels": {"none": "such"}}},
                },
            )
            await eventually("the leader makes a Job", lambda: has_job("one"))

            async def partition_judged() -> bool:
                partition = await admin.get(MIG_PARTITIONS, namespace)
                conditions = (partition.get("status") or {}).get("conditions") or [{}]
                return bool(conditions[0].get("reason") == "NoNodesSelected")

            await eventually("the partition gets its conditions", partition_judged)
            assert await holder() == "first"

            async def counted() -> bool:
                _, page = await first.get("/metrics")
                return 'tessera_reconcile_total{kind="HeterogeneousTrainingJob",result="ok"}' in page

            await eventually("the reconciliation is counted", counted)
            assert (await first.get("/healthz"))[0] == 200

            first.process.send_signal(signal.SIGTERM)
            assert await first.process.wait() == 0, first.log.read_text()
            await admin.create(
                HETEROGENEOUS_TRAINING_JOBS, training_job(namespace, "two", ttlSecondsAfterFinished=0)
            )
            await eventually("the stand-by goes on", lambda: has_job("two"))
            assert await holder() == "second"

            # An invalid parameter ends the job at once, and its time to live is over at once: it is deleted.
            broken = training_job(namespace, "broken", ttlSecondsAfterFinished=0)
            broken["spec"]["workload"]["parameters"] = {"x": [1]}
            await admin.create(HETEROGENEOUS_TRAINING_JOBS, broken)

            async def deleted() -> bool:
                found = await admin.list(HETEROGENEOUS_TRAINING_JOBS, namespace)
                return all(job["metadata"]["name"] != "broken" for job in found.items)

            await eventually("the job past its time to live is deleted", deleted)
            logs = first.log.read_text() + second.log.read_text()
            for word in ("orbidden", "Traceback", "HTTP 403"):
                assert word not in logs, logs
    await admin.delete(MIG_PARTITIONS, namespace)
