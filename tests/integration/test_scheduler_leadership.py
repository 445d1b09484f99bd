"""Two replicas as processes with pod-bound tokens, the chart's rights and its fence: one leads, and never two
allocate.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from eventually import eventually
from fresh_namespace import fresh_namespace
from integration.scheduler_cluster import Cluster, watched_cluster
from scheduler_objects import exactly
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.events import EventRecorder
from tessera.kube.resources import LEASES, NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES
from tessera.local.build import ensure_binaries
from tessera.local.control_plane import ControlPlane
from tessera.local.progress import Progress
from tessera.local.state import ClusterState
from tessera.placement.policies import FirstFit
from tessera.scheduler.actions import Place
from tessera.scheduler.planner import Planner
from tessera.scheduler.snapshot import SnapshotReader
from tessera.scheduler.writer import Writer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

REPOSITORY = Path(__file__).resolve().parents[2]
SYSTEM = names.SYSTEM_NAMESPACE
REPLICAS = ("scheduler-0", "scheduler-1")
WANTED_KINDS = ("ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
FENCES = ("single-allocator.tessera.dev", "leading-allocator.tessera.dev", "scheduler-pod-patch.tessera.dev")


def rendered_fence() -> str:
    """The scheduler's rights and the policies about it, from the chart."""
    helm = ensure_binaries(["helm"], progress=Progress()) / "helm"
    chart = REPOSITORY / "charts" / "tessera"
    command = [str(helm), "template", "tessera", str(chart), "--namespace", SYSTEM]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    documents = [d for d in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if d]
    kept = [
        d
        for d in documents
        if (d["kind"] in WANTED_KINDS and "scheduler" in d["metadata"]["name"])
        or d["metadata"]["name"] in FENCES
    ]
    return yaml.safe_dump_all(kept)


@pytest.fixture(scope="module")
def fenced(cluster_directory: Path) -> Iterator[ControlPlane]:
    """A control plane with the fence in force and two pods that stand for the replicas."""
    with ControlPlane(ClusterState.of(f"fence-{os.getpid()}", state_dir=cluster_directory)) as running:
        running.kubectl("create", "namespace", SYSTEM)
        running.kubectl("apply", "-f", "-", input_text=rendered_fence())
        for name in REPLICAS:
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": SYSTEM},
                "spec": {
                    "serviceAccountName": names.SCHEDULER_SERVICE_ACCOUNT,
                    # No node has this name, so the pod stays as it is.
                    "nodeSelector": {"kubernetes.io/hostname": "nowhere"},
                    "containers": [{"name": "scheduler", "image": "example.invalid/none"}],
                },
            }
            running.kubectl("apply", "-f", "-", input_text=json.dumps(pod))
        yield running


def kubeconfig_of(control_plane: ControlPlane, pod: str, *, directory: Path) -> Path:
    """A kubeconfig with a token of the scheduler's account that is bound to `pod`, as the kubelet would mount
    it.
    """
    token = control_plane.kubectl(
        "create", "token", names.SCHEDULER_SERVICE_ACCOUNT, "-n", SYSTEM,
        "--bound-object-kind=Pod", f"--bound-object-name={pod}",
    ).strip()  # fmt: skip
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    path = directory / f"{pod}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


class Replica:
    """One `tessera scheduler` process."""

    def __init__(self, name: str, *, kubeconfig: Path, directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from tessera.cli.main import main; main()", "scheduler", "--port=0",
                 f"--identity={name}", f"--lease-namespace={SYSTEM}", f"--kubeconfig={kubeconfig}"],
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)


class Overlaps:
    """Watches all claims and notes every moment at which two of them hold overlapping memory slices."""

    def __init__(self, client: KubeClient) -> None:
        self.found: list[str] = []
        self.allocations = 0
        self._client = client
        self._held: dict[str, dict[str, set[tuple[str, int]]]] = {}

    async def run(self) -> None:
        listed = await self._client.list(RESOURCE_CLAIMS)
        async for event in self._client.watch(RESOURCE_CLAIMS, resource_version=listed.resource_version):
            if event.type != "BOOKMARK":
                self._take(event.type, event.object)

    def _take(self, kind: str, claim: dict[str, Any]) -> None:
        uid = claim["metadata"]["uid"]
        allocation = (claim.get("status") or {}).get("allocation")
        if kind == "DELETED" or allocation is None:
            self._held.pop(uid, None)
            return
        if uid in self._held:
            return
        self.allocations += 1
        mine = {r["device"]: _memory(r["device"]) for r in allocation["devices"]["results"]}
        for other in self._held.values():
            for device, slices in mine.items():
                self.found += [f"{device} overlaps {d}" for d, taken in other.items() if taken & slices]
        self._held[uid] = mine


def _memory(device: str) -> set[tuple[str, int]]:
    """The memory slices of a device of these tests: (GPU, slice)."""
    gpu, rest = device[:12], device[13:]
    width = {"1g": 1, "2g": 2, "3g": 4, "7g": 8}[rest[:2]]
    start = int(rest.rpartition("-")[2])
    return {(gpu, start + i) for i in range(width)}


@pytest.fixture
async def fence_admin(fenced: ControlPlane) -> AsyncIterator[KubeClient]:
    async with await KubeClient.connect(kubeconfig=fenced.kubeconfig, field_manager="tests") as client:
        yield client


@pytest.fixture
async def fence_cluster(fenced: ControlPlane, fence_admin: KubeClient) -> AsyncIterator[Cluster]:
    with fresh_namespace(fenced) as space:
        async with watched_cluster(fence_admin, space, kubeconfig=fenced.kubeconfig) as made:
            yield made


@pytest.fixture
def replicas(fenced: ControlPlane, tmp_path: Path) -> Iterator[dict[str, Replica]]:
    """Both replicas, running; their logs are shown when the test fails."""
    running = {
        name: Replica(name, kubeconfig=kubeconfig_of(fenced, name, directory=tmp_path), directory=tmp_path)
        for name in REPLICAS
    }
    yield running
    for replica in running.values():
        replica.end()
        print(f"--- {replica.name}\n{replica.log.read_text()[-4000:]}")
    fenced.kubectl("delete", "lease", names.SCHEDULER_LEASE, "-n", SYSTEM, "--ignore-not-found")


async def leader(client: KubeClient, *, other_than: str = "", seconds: float = 90.0) -> str:
    """Who holds the Lease, once somebody (else) does."""

    async def holder() -> str:
        try:
            spec = (await client.get(LEASES, names.SCHEDULER_LEASE, SYSTEM))["spec"]
        except NotFound:
            return ""
        found = str(spec.get("holderIdentity") or "")
        return found if found != other_than else ""

    return str(await eventually(f"a leader other than {other_than!r}", holder, seconds=seconds))


async def run_pod(cluster: Cluster, name: str, profile: str) -> None:
    await cluster.add_claim(name, exactly(profile))
    await cluster.add_pod(name, claim=name)


async def test_a_killed_leader_is_replaced(
    fence_admin: KubeClient, fence_cluster: Cluster, replicas: dict[str, Replica]
) -> None:
    await fence_cluster.add_node("a")
    first = await leader(fence_admin)
    await run_pod(fence_cluster, "before", "2g.20gb")
    await fence_cluster.bound("before", seconds=60)
    replicas[first].signal(signal.SIGKILL)
    await run_pod(fence_cluster, "after", "2g.20gb")
    assert await leader(fence_admin, other_than=first, seconds=20) != first
    await fence_cluster.bound("after", seconds=60)


async def test_a_leader_that_slept_through_its_lease_allocates_nothing_twice(
    fence_admin: KubeClient, fence_cluster: Cluster, replicas: dict[str, Replica]
) -> None:
    await fence_cluster.add_node("a")
    overlaps = Overlaps(fence_admin)
    watching = asyncio.create_task(overlaps.run())
    first = await leader(fence_admin)
    await run_pod(fence_cluster, "whole", "7g.80gb")
    await fence_cluster.bound("whole", seconds=60)
    # The sleeper knows of waiting work; that room has become free it learns only after it wakes.
    await run_pod(fence_cluster, "waiting", "7g.80gb")

    async def refused() -> bool:
        return "Unplaceable" in await fence_cluster.reasons("waiting")

    await eventually("the refusal of the second pod", refused)
    replicas[first].signal(signal.SIGSTOP)
    second = await leader(fence_admin, other_than=first, seconds=25)
    await fence_cluster.delete_pod("whole")
    for number in range(3):
        await run_pod(fence_cluster, f"small-{number}", "1g.10gb")
    await fence_cluster.bound("waiting", seconds=60)
    replicas[first].signal(signal.SIGCONT)
    await fence_cluster.delete_pod("waiting")
    for number in range(3):
        await fence_cluster.bound(f"small-{number}", seconds=60)
    await run_pod(fence_cluster, "last", "2g.20gb")
    await fence_cluster.bound("last", seconds=60)
    assert await leader(fence_admin) == second

    async def awake() -> bool:
        return "does not lead any more" in replicas[first].log.read_text()

    await eventually("the sleeper noticing", awake)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert overlaps.allocations >= 5
    assert overlaps.found == []


async def test_the_fence_refuses_a_writer_that_believes_it_leads(
    fenced: ControlPlane, fence_admin: KubeClient, fence_cluster: Cluster, tmp_path: Path
) -> None:
    """The worst case: a stale leader's write leaves the process after another one took the Lease."""
    await fence_cluster.add_node("a")
    await run_pod(fence_cluster, "train", "2g.20gb")
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    lease = {
        "metadata": {"name": names.SCHEDULER_LEASE, "namespace": SYSTEM},
        "spec": {"holderIdentity": REPLICAS[1], "leaseDurationSeconds": 15, "renewTime": now},
    }
    await fence_admin.apply(LEASES, lease)
    config = kubeconfig_of(fenced, REPLICAS[0], directory=tmp_path)
    believed = 0

    async def believe() -> None:
        nonlocal believed
        believed += 1

    async with await KubeClient.connect(kubeconfig=config) as stale:
        space = fence_cluster.namespace
        reader = SnapshotReader()
        snapshot = reader.read(
            pods=(await stale.list(PODS)).items,
            claims=(await stale.list(RESOURCE_CLAIMS)).items,
            nodes=(await stale.list(NODES)).items,
            slices=(await stale.list(RESOURCE_SLICES)).items,
            now=time.time(),
        )
        actions = Planner(FirstFit(), grace_seconds=30).plan(snapshot)
        placed = [a for a in actions if isinstance(a, Place) and a.pods[0].pod.key == (space, "train")]
        assert len(placed) == 1
        writer = Writer(stale, events=EventRecorder(stale, component="scheduler"), verify=believe)
        await writer.carry_out(placed, now=snapshot.now)
    assert believed >= 1
    assert await fence_cluster.devices("train") == []
    assert (await fence_cluster.pod("train"))["spec"]["schedulingGates"]
    await fence_admin.delete(LEASES, names.SCHEDULER_LEASE, namespace=SYSTEM)
