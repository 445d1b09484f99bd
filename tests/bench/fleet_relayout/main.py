"""How long a fleet takes to get another fixed layout: simulated nodes, the real operator, the real agents.

    make bench-relayout BENCH_ARGS="--nodes 1000 --gpus 1 --unavailable 10%"

One control plane; Node objects without kubelets; `tessera fleet` plays their agents, each with a simulator
of its own; `tessera operator` runs as one process. A MIGPartition asks for one layout, then for another. Told
of each: seconds until every node has it, the most nodes that were in change at once, what the API server
counted as writes, and processor seconds. Prints one JSON object; exit 1 when more nodes were in change than
allowed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.scheduler_at_scale.many_requests import each
from bench.scheduler_at_scale.readings import cpu_seconds, server_writes
from custom_resources import install_crds
from nodes_in_change import NodesInChange
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.conditions import find_condition
from tessera.kube.errors import AlreadyExists
from tessera.kube.informer import Informer
from tessera.kube.resources import GPU_NODES, MIG_PARTITIONS, NODES
from tessera.local.control_plane import ControlPlane
from tessera.local.errors import last_lines
from tessera.local.ports import free_ports
from tessera.local.processes import main_process
from tessera.local.state import ClusterState

PARTITION = "bench"
LAYOUTS: tuple[list[dict[str, Any]], ...] = (
    [{"profile": "3g.40gb", "count": 2}],
    [{"profile": "2g.20gb", "count": 3}, {"profile": "1g.10gb"}],
)

Object = dict[str, Any]


@contextmanager
def process(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """One of our programs, ended after the block."""
    command = [sys.executable, "-P", "-c", "from tessera.cli.main import main; main()", *arguments]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as running:
        try:
            yield running
        finally:
            running.terminate()


class Bench:
    """One cluster with its fleet and operator."""

    def __init__(
        self,
        client: KubeClient,
        options: argparse.Namespace,
        pids: dict[str, int],
        programs: dict[Path, subprocess.Popen[bytes]],
    ) -> None:
        self._client = client
        self._options = options
        self._pids = pids
        self._programs = programs

    async def run(self) -> Object:
        """All phases."""
        published = await self._timed(self._publish())
        phases = [{"phase": "published", **published}]
        for number, layout in enumerate(LAYOUTS):
            in_change = NodesInChange()
            watch = Informer(self._client, GPU_NODES, on_change=in_change)
            watch.start()
            await watch.wait_synced()
            taken = await self._timed(self._lay_out(layout))
            await watch.stop()
            phases.append({"phase": f"layout {number + 1}", "most_in_change": in_change.most, **taken})
        return {"phases": phases}

    async def _timed(self, work: Any) -> Object:
        before, writes, began = self._cpu(), await self._writes(), time.monotonic()
        await work
        seconds, after = time.monotonic() - began, self._cpu()
        made = await self._writes() - writes
        return {
            "seconds": round(seconds, 1),
            "writes": dict(made.most_common()),
            "cpu_seconds": {role: round(after[role] - before[role], 1) for role in after},
        }

    def _cpu(self) -> dict[str, float]:
        return {role: cpu_seconds(Path(f"/proc/{pid}/stat").read_text()) for role, pid in self._pids.items()}

    async def _writes(self) -> Counter[str]:
        """Of GPUNodes, ResourceSlices, partitions and events, by everybody."""
        found = server_writes((await self._client.raw("GET", "/metrics")).splitlines())
        ours = ("gpunodes", "resourceslices", "migpartitions", "events")
        return Counter({what: count for what, count in found.items() if what.startswith(ours)})

    async def _publish(self) -> None:
        async def make(number: int) -> None:
            labels = {names.SIMULATED_GPUS_LABEL: "true"}
            metadata = {"name": f"node-{number:04d}", "labels": labels}
            await self._client.create(NODES, {"apiVersion": "v1", "kind": "Node", "metadata": metadata})

        await each(range(self._options.nodes), make)
        while True:
            nodes = (await self._client.list(GPU_NODES)).items
            told = [find_condition((node.get("status") or {}).get("conditions"), "Ready") for node in nodes]
            if sum(bool(one and one["status"] == "True") for one in told) == self._options.nodes:
                return
            await self._pause("agents of all nodes to report")

    async def _pause(self, what: str) -> None:
        if time.monotonic() > self._options.give_up_at:
            raise SystemExit(f"given up waiting for {what}")
        for log, program in self._programs.items():
            if program.poll() is not None:
                raise SystemExit(f"{log.stem} has ended: {last_lines(log)}")
        await asyncio.sleep(1.0)

    async def _lay_out(self, layout: list[Object]) -> None:
        spec = {
            "mode": "static",
            "static": {"layout": layout},
            "update": {"maxUnavailable": self._options.unavailable},
        }
        try:
            made = await self._client.create(MIG_PARTITIONS, {"metadata": {"name": PARTITION}, "spec": spec})
        except AlreadyExists:
            made = await self._client.patch(MIG_PARTITIONS, PARTITION, body={"spec": spec})
        while True:
            found = await self._client.get(MIG_PARTITIONS, PARTITION)
            applied = find_condition((found.get("status") or {}).get("conditions"), "LayoutApplied")
            judged = applied and applied["observedGeneration"] == made["metadata"]["generation"]
            if applied and judged and applied["status"] == "True":
                return
            await self._pause(f"the layout ({applied['message'] if applied else 'not looked at'})")


async def measure(plane: ControlPlane, options: argparse.Namespace, state: Path) -> Object:
    """Start fleet and operator, and run."""
    identity = plane.state.identity()
    assert identity is not None
    plane.kubectl("create", "namespace", names.SYSTEM_NAMESPACE)
    ports = free_ports(2)
    kubeconfig = f"--kubeconfig={plane.kubeconfig}"
    fleet = (f"--state-dir={state}", f"--simulate-count={options.gpus}", f"--port={ports[0]}", kubeconfig)
    operator = ("--worker-image=none", "--identity=bench", f"--port={ports[1]}", kubeconfig)
    logs = [plane.state.logs / f"{program}.log" for program in ("fleet", "operator")]
    with (
        process(logs[0], "fleet", *fleet) as agents,
        process(logs[1], "operator", *operator) as leader,
    ):
        pids = {"fleet": agents.pid, "operator": leader.pid}
        for role in ("kube-apiserver", "etcd"):
            found = main_process(role, identity=identity)
            assert found is not None
            pids[role] = found.pid
        async with await KubeClient.connect(
            kubeconfig=plane.kubeconfig, user_agent="tessera-bench", field_manager="tessera-bench"
        ) as client:
            return await Bench(client, options, pids, dict(zip(logs, (agents, leader), strict=True))).run()


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--gpus", type=int, default=1, help="GPUs per node (default 1)")
    parser.add_argument("--unavailable", default="10%", help="maxUnavailable (default 10%%)")
    parser.add_argument("--minutes", type=float, default=30.0, help="give up after that time (default 30)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    options.give_up_at = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory(prefix="bench-relayout-") as directory:
        state = ClusterState.of(f"relayout-{os.getpid()}", state_dir=Path(directory))
        with ControlPlane(state) as plane:
            install_crds(plane)
            found = asyncio.run(measure(plane, options, Path(directory) / "fleet"))
    share = options.unavailable.rstrip("%")
    allowed = int(share) * options.nodes // 100 if share != options.unavailable else int(share)
    config = {"nodes": options.nodes, "gpus": options.gpus, "unavailable": options.unavailable}
    print(json.dumps({"config": config, "allowed_in_change": max(1, allowed), **found}, indent=1))
    if any(phase.get("most_in_change", 0) > max(1, allowed) for phase in found["phases"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
