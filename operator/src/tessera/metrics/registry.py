"""Every metric of every process, declared once.

A process exposes the whole table and moves only the metrics it owns, so that dashboards, alerts and
`docs/metrics.md` have one source: this file. The constant of a metric is its name in capitals without the
prefix `tessera_`. Durations are in seconds. Labels hold only small closed sets (kinds, profiles, reasons)
and names of objects whose number is bounded by the cluster's hardware or by the jobs that exist now.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

PREFIX = "tessera_"

# A registry of our own: the library's global one would also export whatever a dependency registers there.
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_WAITING = (
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    1800.0,
    7200.0,
    86400.0,
)
_SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True)
class Declaration:
    """One row of the metric table."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]


DECLARED: list[Declaration] = []


def _counter(name: str, text: str, *labels: str) -> Counter:
    DECLARED.append(Declaration(PREFIX + name, "counter", text, labels))
    return Counter(PREFIX + name, text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    DECLARED.append(Declaration(PREFIX + name, "gauge", text, labels))
    return Gauge(PREFIX + name, text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, *labels: str, buckets: Sequence[float]) -> Histogram:
    DECLARED.append(Declaration(PREFIX + name, "histogram", text, labels))
    return Histogram(PREFIX + name, text, labels, registry=REGISTRY, buckets=buckets)


# Every process.
BUILD_INFO = _gauge("build_info", "Always 1; the labels say what runs.", "process", "version")
LEADER = _gauge("leader", "1 while this replica holds the Lease of the process, else 0.", "process")
UNHANDLED_ERRORS_TOTAL = _counter(
    "unhandled_errors_total", "Errors that reached the edge of a loop; each is a defect to report.", "where"
)
API_REQUESTS_TOTAL = _counter(
    "api_requests_total",
    "Requests to the API server by verb, resource and HTTP status ('unreachable' when there was no answer).",
    "verb",
    "resource",
    "code",
)
API_REQUEST_SECONDS = _histogram(
    "api_request_seconds",
    "Time of one request to the API server, watches apart.",
    "verb",
    "resource",
    buckets=_FAST,
)
WORKQUEUE_DEPTH = _gauge("workqueue_depth", "Keys that wait in a work queue.", "queue")
WORKQUEUE_ADDS_TOTAL = _counter(
    "workqueue_adds_total", "Keys added to a work queue, duplicates left out.", "queue"
)
WORKQUEUE_RETRIES_TOTAL = _counter(
    "workqueue_retries_total", "Keys that failed and were queued again.", "queue"
)

# The operator.
RECONCILE_TOTAL = _counter("reconcile_total", "Reconciliations by kind and result.", "kind", "result")
RECONCILE_SECONDS = _histogram("reconcile_seconds", "Time of one reconciliation.", "kind", buckets=_FAST)
TRAINING_STEP = _gauge("training_step", "Last step that a training job reported.", "namespace", "job")
TRAINING_STEPS = _gauge("training_steps", "Steps that a training job will make in all.", "namespace", "job")
TRAINING_LOSS = _gauge("training_loss", "Last loss that a training job reported.", "namespace", "job")

# The scheduler.
PLACEMENT_SECONDS = _histogram(
    "placement_seconds", "Time of one placement decision, writing left out.", buckets=_FAST
)
PLACEMENTS_TOTAL = _counter(
    "placements_total", "Placement decisions by result (a reason) and profile.", "result", "profile"
)
TAKEBACKS_TOTAL = _counter(
    "takebacks_total", "Allocations taken back because the pod could not be scheduled on their node."
)
MOVES_TOTAL = _counter(
    "moves_total",
    "Movable pods by what became of them: moved (to the place held for them), elsewhere, no_replacement, "
    "refused (not evicted in time), abandoned (not needed any more), preempted; and by kind: room (for a "
    "waiting pod) or compaction (its GPU becomes empty).",
    "outcome",
    "kind",
)
UNGATED_TOTAL = _counter("ungated_total", "Pods whose placement gate was removed.")
FRAGMENTATION_RATIO = _gauge(
    "fragmentation_ratio",
    "Share of a GPU's memory slices that are free and useless to the next request (F_slice / slices).",
    "node",
    "gpu",
)
LARGEST_PLACEABLE_PROFILE_SLICES = _gauge(
    "largest_placeable_profile_slices",
    "Memory slices of the largest profile that a GPU can still place.",
    "node",
    "gpu",
)
STRANDED_SLICES = _gauge(
    "stranded_slices", "Free memory slices of all GPUs that no profile can use as the rest is now."
)
REQUESTS_TOTAL = _counter(
    "requests_total",
    "Slices by the profile that was asked for and the first answer to their pod: at_once (placed) or later "
    "(refused).",
    "profile",
    "outcome",
)
PLACED_AFTER_SECONDS = _histogram(
    "placed_after_seconds",
    "Time from when a pod was first seen waiting to its written allocation, by profile.",
    "profile",
    buckets=_WAITING,
)
QUEUE_DEPTH = _gauge("queue_depth", "Pods that wait for a slice, by the profile that was refused.", "profile")
QUEUE_OLDEST_SECONDS = _gauge(
    "queue_oldest_seconds", "How long the pod that waits longest has waited, by profile.", "profile"
)
RESERVE_ROOM_SLICES = _gauge(
    "reserve_room_slices",
    "Slices of a reserved profile for which the partition has room now.",
    "partition",
    "profile",
)
MOVES_LEFT_THIS_HOUR = _gauge(
    "moves_left_this_hour",
    "How many pods of a partition may still be moved or preempted within this hour (perHour).",
    "partition",
)
MOVES_EARNED = _gauge(
    "moves_earned",
    "Moves that the placements of a partition have earned and that are not spent yet (per100Placements); a "
    "part of one is saved up.",
    "partition",
)
PENDING_PODS = _gauge("pending_pods", "Pods that wait for a placement after the last round.")
ALLOCATED_SLICES = _gauge("allocated_slices", "Placements held by claims, by profile.", "profile")
ALLOCATION_DEFECTS_TOTAL = _counter(
    "allocation_defects_total",
    "Claims found to hold a device that overlaps another claim's or is not published; always 0 in health.",
)

# The node agent.
SLICES = _gauge(
    "slices", "GPU instances by profile and state (InUse, Warm, Foreign).", "profile", "state", "node"
)
LAYOUTS = _gauge(
    "layouts",
    "GPUs with a fixed layout by how far it is (Applied, Changing, Blocked, Failed).",
    "state",
    "node",
)
PREPARE_SECONDS = _histogram("prepare_seconds", "Time to prepare one claim.", buckets=_SLOW)
UNPREPARE_SECONDS = _histogram("unprepare_seconds", "Time to unprepare one claim.", buckets=_SLOW)
PREPARE_ERRORS_TOTAL = _counter(
    "prepare_errors_total", "Claims that could not be prepared, by reason.", "reason"
)
XIDS_TOTAL = _counter(
    "xids_total", "Xid errors that the driver has reported, by number and GPU.", "xid", "gpu"
)
GPU_HEALTHY = _gauge(
    "gpu_healthy", "1 while the GPU may take new work on one of its slices at least, else 0.", "gpu", "node"
)
NVML_CALL_SECONDS = _histogram("nvml_call_seconds", "Time of one NVML call.", "call", buckets=_FAST)
NVML_ERRORS_TOTAL = _counter(
    "nvml_errors_total", "NVML calls that failed, by call and error.", "call", "error"
)


@contextmanager
def timed(histogram: Histogram, *labels: str) -> Iterator[None]:
    """Observe how many seconds the block took, also when it raises."""
    started = time.perf_counter()
    try:
        yield
    finally:
        (histogram.labels(*labels) if labels else histogram).observe(time.perf_counter() - started)
