"""What processes have used and how often the API server was written to, read before and after a run."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from bench.scheduler_at_scale.cluster import ALLOCATOR, BenchCluster
from tessera.kube.client import KubeClient

ROLES = ("kube-scheduler", "kube-apiserver", "etcd", "kube-controller-manager", "kwok", ALLOCATOR)
ANSWER_SECONDS = 60.0
WRITES = {"POST", "PUT", "PATCH", "APPLY", "DELETE"}
_SAMPLE = re.compile(r"^(?P<name>[a-z_]+)\{(?P<labels>[^}]*)\} (?P<value>\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Reading:
    """A look at everything. CPU in seconds since the process began, resident memory in MiB.

    `server_writes` by "resource/subresource", from the API server; `own_writes` by resource and `moves` by
    outcome, from the allocator's metrics.
    """

    cpu_seconds: Mapping[str, float]
    rss_mib: Mapping[str, float]
    server_writes: Counter[str]
    own_writes: Counter[str]
    moves: Counter[str]


async def read(cluster: BenchCluster, client: KubeClient, *, allocator_port: int | None) -> Reading:
    """Read all of it; processes that do not run are left out."""
    cpu, rss = {}, {}
    for role in ROLES:
        pid = cluster.pid(role)
        if pid is not None:
            cpu[role], rss[role] = _used(pid)
    own: Counter[str] = Counter()
    moves: Counter[str] = Counter()
    if allocator_port is not None:
        page = (await asyncio.to_thread(_metrics_page, allocator_port)).splitlines()
        own, moves = own_writes(page), moves_by_outcome(page)
    server = server_writes((await client.raw("GET", "/metrics")).splitlines())
    return Reading(cpu, rss, server, own, moves)


def _metrics_page(port: int) -> str:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=ANSWER_SECONDS) as answer:
        return str(answer.read().decode())


def _used(pid: int) -> tuple[float, float]:
    stat, status = (Path("/proc", str(pid), name).read_text() for name in ("stat", "status"))
    return cpu_seconds(stat), resident_mib(status)


def cpu_seconds(stat: str) -> float:
    """User and system time of `/proc/PID/stat` (proc(5): fields 14 and 15), in seconds."""
    fields = stat[stat.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(status: str) -> float:
    """VmRSS of `/proc/PID/status`, in MiB."""
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def server_writes(lines: Iterable[str]) -> Counter[str]:
    """Writes that succeeded, by "resource" or "resource/subresource", of `apiserver_request_total`."""
    found: Counter[str] = Counter()
    for labels, value in _samples(lines, "apiserver_request_total"):
        if labels["verb"] in WRITES and labels["code"].startswith("2"):
            subresource = labels.get("subresource")
            found["/".join(filter(None, (labels["resource"], subresource)))] += round(value)
    return found


def own_writes(lines: Iterable[str]) -> Counter[str]:
    """Writes of one of our processes by resource, whatever was answered."""
    found: Counter[str] = Counter()
    for labels, value in _samples(lines, "tessera_api_requests_total"):
        if labels["verb"].upper() in WRITES:
            found[labels["resource"]] += round(value)
    return found


def moves_by_outcome(lines: Iterable[str]) -> Counter[str]:
    """What became of the moves since the allocator began."""
    found: Counter[str] = Counter()
    for labels, value in _samples(lines, "tessera_moves_total"):
        found[labels["outcome"]] += round(value)
    return found


def _samples(lines: Iterable[str], name: str) -> Iterable[tuple[dict[str, str], float]]:
    for line in lines:
        if line.startswith(name) and (sample := _SAMPLE.match(line)) and sample["name"] == name:
            yield dict(_LABEL.findall(sample["labels"])), float(sample["value"])
