"""The jobs: those of the published runs, bit by bit, and what the options change about them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tessera.gpu.profiles import model
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.queueing.workload import (
    PUBLISHED_SEED,
    Workload,
    draw,
    mix_of,
    read_trace,
    slice_mib,
)

H100 = model("H100-80GB")
MIX = mix_of(H100)
SIX = {"1g.10gb": 35.0, "1g.20gb": 10.0, "2g.20gb": 25.0, "3g.40gb": 15.0, "4g.40gb": 10.0, "7g.80gb": 5.0}


def workload(**changes: Any) -> Workload:
    return replace(Workload(mix=MIX, compute_slices=56), **changes)


def test_saturated_jobs_are_those_of_the_published_trace() -> None:
    # Source: FouoF/MIG-scheduler-benchmark, outputs/full-control-plane-v3-trace.jsonl, job number:
    # (arrivalMS, computeCoreMS, memoryMB / 10240).
    published = {
        1: (0, 9588810, 1),
        56: (0, 9291800, 1),
        57: (24625, 114249534, 4),
        80: (352850, 199134800, 8),
        144: (1473432, 45128580, 4),
        500: (7071371, 2482046, 1),
    }
    jobs = draw(workload(offered_load=None), PUBLISHED_SEED)
    assert len(jobs) == 500
    for number, expected in published.items():
        job = jobs[number - 1]
        assert (job.arrival_ms, job.work, job.shape.memory_slices) == expected


def test_offered_load_sets_the_gaps_and_leaves_the_sizes() -> None:
    low, high = (draw(workload(offered_load=load), PUBLISHED_SEED) for load in (0.7, 1.4))
    assert [(j.work, j.shape) for j in low] == [(j.work, j.shape) for j in high]
    occupied_ms = sum(job.shape.compute_slices * job.runtime_ms for job in high)
    # The mean gap follows from the sizes that were drawn; 500 drawn gaps have it within 10 %.
    assert high[-1].arrival_ms / 500 == pytest.approx(occupied_ms / (500 * 56) / 1.4, rel=0.1)
    assert low[-1].arrival_ms == pytest.approx(2 * high[-1].arrival_ms, abs=500)


def test_a_cap_bounds_the_drawn_duration() -> None:
    jobs = draw(workload(cap_seconds=1000.0), 7)
    assert max(job.runtime_ms for job in jobs) == 1_000_000
    assert sum(job.runtime_ms == 1_000_000 for job in jobs) > 50


def test_by_memory_alone_a_2g_job_runs_twice_as_long_on_a_1g_with_its_memory() -> None:
    mix = mix_of(H100, SIX)
    lean, full = (draw(workload(mix=mix, demand=d), 3) for d in ("memory", "memory-and-compute"))
    twos = [number for number, job in enumerate(full) if job.shape.profile == "2g.20gb"]
    assert twos
    for number in twos:
        assert lean[number].shape.profile == "1g.20gb"
        assert lean[number].work == full[number].work
        assert lean[number].runtime_ms == 2 * full[number].runtime_ms


def test_priorities_leave_the_jobs_as_they_are() -> None:
    plain, ranked = (draw(workload(priorities=p), 5) for p in ((1.0,), (80.0, 20.0)))
    assert [(j.arrival_ms, j.work) for j in plain] == [(j.arrival_ms, j.work) for j in ranked]
    assert 60 < sum(job.priority for job in ranked) < 140


def test_the_default_mix_needs_the_four_sizes() -> None:
    with pytest.raises(BadSimulationInput, match=r"A30-24GB.*no 3g profile.*--mix"):
        mix_of(model("A30-24GB"))


def test_shares_are_rounded_down_as_published() -> None:
    assert [s.percent for s in mix_of(H100, SIX).shapes] == [14, 14, 28, 42, 57, 100]


def test_a_trace_file_gives_the_jobs_it_was_written_from(tmp_path: Path) -> None:
    jobs = draw(workload(offered_load=None), PUBLISHED_SEED)
    file = tmp_path / "trace.jsonl"
    file.write_text(
        "".join(
            json.dumps(
                {
                    "arrivalMS": job.arrival_ms,
                    "computeCoreMS": job.work,
                    "memoryMB": 10240 * job.shape.memory_slices,
                }
            )
            + "\n"
            for job in jobs
        )
    )
    assert read_trace(file, MIX, slice_mib=slice_mib(H100)) == jobs


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2 is no job"),
        ('{"arrivalMS": 1, "memoryMB": 10240}', "line 2 is no job.*computeCoreMS"),
        ('{"arrivalMS": -1, "computeCoreMS": 5, "memoryMB": 10240}', "line 2 is no job"),
        ('{"arrivalMS": 1, "computeCoreMS": 5, "memoryMB": 819200}', "80 memory slices"),
    ],
)
def test_a_bad_line_of_a_trace_is_named(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"arrivalMS": 1, "computeCoreMS": 5, "memoryMB": 10240}\n' + line + "\n")
    with pytest.raises(BadSimulationInput, match=said):
        read_trace(file, MIX, slice_mib=10240)


def test_a_trace_that_is_no_text_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadSimulationInput, match=r"trace .*trace\.jsonl cannot be read"):
        read_trace(file, MIX, slice_mib=10240)
