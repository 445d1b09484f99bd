"""Threads: from the CPU request, and never more than this process may use."""

import os

import pytest
from tessera_workloads.errors import InvalidParameter
from tessera_workloads.threads import confine, thread_count


def test_threads_come_from_omp_num_threads_and_never_exceed_this_process() -> None:
    assert thread_count({"OMP_NUM_THREADS": "3"}) == 3
    assert 1 <= thread_count({}) <= len(os.sched_getaffinity(0))
    for bad in ("0", "-1", "many"):
        with pytest.raises(InvalidParameter, match="OMP_NUM_THREADS"):
            thread_count({"OMP_NUM_THREADS": bad})


def test_the_decision_is_left_for_every_library_that_is_loaded_later() -> None:
    environ: dict[str, str] = {}
    threads = confine(environ)
    assert environ == {"OMP_NUM_THREADS": str(threads)}
