"""How many threads the work may have. Decided before torch and numpy are imported, because their arithmetic
libraries read `OMP_NUM_THREADS` once, when they are loaded.

Over-subscribed OpenMP threads were measured up to 14 times slower, so the node's core count is never the
answer: the operator sets `OMP_NUM_THREADS` from the CPU request, and without it the CPUs of this process
count.
"""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from tessera_workloads.errors import InvalidParameter


def confine(environ: MutableMapping[str, str]) -> int:
    """Decide the number of threads and leave it in `environ` for every library that is loaded from now on."""
    threads = thread_count(environ)
    environ["OMP_NUM_THREADS"] = str(threads)
    return threads


def thread_count(environ: Mapping[str, str]) -> int:
    """Threads for torch: `OMP_NUM_THREADS` (set from the CPU request), else the CPUs this process may really
    use.
    """
    text = environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise InvalidParameter(f"OMP_NUM_THREADS={text!r} is not a whole number of at least 1")
        return int(text)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, _cgroup_cpus() or allowed))


def _cgroup_cpus() -> int | None:
    """Whole CPUs of the container's quota, from cgroup v2; None without a quota."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else max(1, int(quota) // int(period))
