"""From times and readings to the figures of an arm, their medians, and the table. Pure."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

Figures = dict[str, float | None]

COLUMNS: Mapping[str, Sequence[tuple[str, str, str]]] = {
    "burst": (
        ("bound", "bound", ".0f"),
        ("pods_per_second", "pods/s", ".1f"),
        ("p50_seconds", "p50 s", ".2f"),
        ("p99_seconds", "p99 s", ".2f"),
        ("server_writes_per_pod", "writes", ".2f"),
        ("own_writes_per_pod", "own", ".2f"),
        ("events_per_pod", "events", ".2f"),
        ("overlaps", "overlap", ".0f"),
    ),
    "CPU seconds and resident memory (MiB) in the burst": (
        ("cpu_kube_scheduler", "sched", ".1f"),
        ("cpu_kube_apiserver", "api", ".1f"),
        ("apiserver_cpu_ms_per_pod", "ms/pod", ".1f"),
        ("cpu_allocator", "alloc", ".2f"),
        ("allocator_cpu_ms_per_pod", "ms/pod", ".2f"),
        ("rss_kube_scheduler", "sched M", ".0f"),
        ("rss_kube_apiserver", "api M", ".0f"),
        ("rss_allocator", "alloc M", ".0f"),
    ),
    "churn, a plain pod behind unplaceable claims, a full cluster": (
        ("churn_pods_per_second", "churn/s", ".1f"),
        ("churn_p99_seconds", "p99 s", ".2f"),
        ("plain_pod_seconds", "plain s", ".2f"),
        ("slice_acceptance_pct", "accept%", ".1f"),
        ("filled_pct", "filled%", ".1f"),
        ("large_pct", "large%", ".1f"),
        ("moves", "moves", ".0f"),
    ),
    "multiples of the trivial allocator's": (
        ("pods_per_second_of_trivial", "pods/s", ".2f"),
        ("p99_seconds_of_trivial", "p99", ".2f"),
        ("churn_pods_per_second_of_trivial", "churn/s", ".2f"),
        ("churn_p99_seconds_of_trivial", "p99", ".2f"),
    ),
}


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least that share of the values does not exceed; None without values.

    >>> percentile([3.0, 1.0, 2.0], 0.5)
    2.0
    """
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def rate(bound: Sequence[float], *, began: float, cut_at: float | None) -> float:
    """Pods a second from the first post to the last bind, or to the cut when it came before the end."""
    if not bound:
        return 0.0
    seconds = (cut_at if cut_at is not None else max(bound)) - began
    return len(bound) / seconds


def usage(
    *,
    cpu: tuple[Mapping[str, float], Mapping[str, float]],
    rss_mib: Mapping[str, float],
    server: tuple[Counter[str], Counter[str]],
    own: tuple[Counter[str], Counter[str]],
    pods: int,
) -> Figures:
    """What a run of `pods` bound pods has cost, from (before, after) pairs.

    `server_writes_per_pod` is everybody's on pods and claims: the post of the pod, the claim that
    kube-controller-manager makes and the pod's status are among them. `own_writes_per_pod` is the
    allocator's, events and Lease apart.
    """
    figures: Figures = {}
    for role, after in cpu[1].items():
        figures[f"cpu_{role.replace('-', '_')}"] = after - cpu[0].get(role, 0.0)
        figures[f"rss_{role.replace('-', '_')}"] = rss_mib[role]
    if not pods:
        return figures
    written = server[1] - server[0]
    claims_and_pods = {w: n for w, n in written.items() if w.split("/")[0] in ("pods", "resourceclaims")}
    figures["server_writes_per_pod"] = sum(claims_and_pods.values()) / pods
    figures |= {f"server_writes_per_pod_{what}": n / pods for what, n in claims_and_pods.items()}
    figures["events_per_pod"] = written["events"] / pods
    if "cpu_kube_apiserver" in figures:
        figures["apiserver_cpu_ms_per_pod"] = 1000 * (figures["cpu_kube_apiserver"] or 0.0) / pods
    if "cpu_allocator" in figures:
        mine = own[1] - own[0]
        figures["own_writes_per_pod"] = (mine["pods"] + mine["resourceclaims"]) / pods
        figures["allocator_cpu_ms_per_pod"] = 1000 * (figures["cpu_allocator"] or 0.0) / pods
    return figures


def overlapping(devices: Iterable[tuple[str, str, int]]) -> int:
    """Devices that share a memory slice with an earlier one, of (pool, GPU, mask of memory slices)."""
    taken: dict[tuple[str, str], int] = {}
    found = 0
    for pool, gpu, mask in devices:
        found += bool(taken.get((pool, gpu), 0) & mask)
        taken[pool, gpu] = taken.get((pool, gpu), 0) | mask
    return found


def medians(runs: Sequence[Figures]) -> Figures:
    """Per key the median of the runs that have a value; None when none has."""
    keys = dict.fromkeys(key for run in runs for key in run)
    found: Figures = {}
    for key in keys:
        values = [value for run in runs if (value := run.get(key)) is not None]
        found[key] = statistics.median(values) if values else None
    return found


def spread(runs: Sequence[Figures]) -> dict[str, tuple[float, float]]:
    """Per key the smallest and the largest value."""
    keys = dict.fromkeys(key for run in runs for key in run)
    found = {key: [value for run in runs if (value := run.get(key)) is not None] for key in keys}
    return {key: (min(values), max(values)) for key, values in found.items() if values}


def table(arms: Mapping[str, Figures]) -> str:
    """The medians as text of at most 80 columns; `-` where there is nothing."""
    lines: list[str] = []
    for title, columns in COLUMNS.items():
        lines += ["", title, f"{'arm':13}" + "".join(f"{head:>8}" for _, head, _ in columns)]
        for name, figures in arms.items():
            cells = (_cell(figures.get(key), form) for key, _, form in columns)
            lines.append(f"{name:13}" + "".join(f"{cell:>8}" for cell in cells))
    return "\n".join(lines[1:])


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def beside_trivial(median: Mapping[str, Figures]) -> dict[str, Figures]:
    """The same figures, with rates and p99 as multiples of the trivial allocator's where both are known."""
    base = median.get("trivial", {})
    return {
        name: figures
        | {
            f"{key}_of_trivial": value / reference
            for key in ("pods_per_second", "p99_seconds", "churn_pods_per_second", "churn_p99_seconds")
            if (value := figures.get(key)) is not None and (reference := base.get(key))
        }
        for name, figures in median.items()
    }
