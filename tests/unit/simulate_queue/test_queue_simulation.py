"""The event loop on small hand-made queues, where every time can be worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest
from tessera.gpu.profiles import model
from tessera.simulate.costs import MoveCosts
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.queueing.experiment import Arm, Experiment
from tessera.simulate.queueing.geometry import GeometryKind
from tessera.simulate.queueing.moving import MoveRule
from tessera.simulate.queueing.queue import Order
from tessera.simulate.queueing.reservations import ReservationRule
from tessera.simulate.queueing.simulation import Stay
from tessera.simulate.queueing.workload import Job, Workload, draw, mix_of

H100 = model("H100-80GB")
MIX = mix_of(H100)
SHAPES = {shape.profile[:2]: shape for shape in MIX.shapes}
ONE_GPU = Experiment(H100, MIX, nodes=1, gpus_per_node=1)
WHOLE = frozenset({"7g.80gb"})


def jobs(*wanted: tuple[Any, ...]) -> tuple[Job, ...]:
    """(arrival in s, size, runtime in s) or with a priority at the end."""
    return tuple(
        Job(
            number,
            int(arrival * 1000),
            int(seconds * 1000) * SHAPES[size].percent,
            SHAPES[size],
            *priority,
        )
        for number, (arrival, size, seconds, *priority) in enumerate(wanted)
    )


def play(
    queue: tuple[Job, ...], experiment: Experiment = ONE_GPU, order: Order = "fifo", policy: str = "first_fit"
) -> tuple[dict[str, Any], dict[int, Stay]]:
    run = replace(experiment, trace=queue).simulation(Arm(policy, order), 0)
    measures = run.run()
    return measures, {s.job.number: s for s in run.stays}


def test_a_job_waits_for_the_slice_of_the_one_before_it() -> None:
    measures, started = play(jobs((0, "7g", 100), (10, "7g", 50)))
    # Create 250 ms, run, delete 100 ms; the second is made ready after the first is gone.
    assert (started[0].start_ms, started[0].finish_ms) == (250, 100_350)
    assert (started[1].start_ms, started[1].finish_ms) == (100_600, 150_700)
    assert measures["wait_max_seconds"] == 90.6
    assert measures["makespan_seconds"] == 150.7
    assert measures["throughput_per_hour"] == pytest.approx(2 * 3600 / 150.7)


def test_a_small_job_passes_a_large_one_that_must_wait() -> None:
    _, started = play(jobs((0, "3g", 100), (1, "7g", 10), (2, "3g", 20)))
    assert started[2].start_ms == 2250
    assert started[1].start_ms == 100_600


def test_smallest_work_first_is_compute_times_runtime() -> None:
    # The 1g is 500 compute-seconds; a 7g of 60 s is less (420), one of 80 s is more (560).
    less = jobs((0, "7g", 50), (1, "1g", 500), (2, "7g", 60))
    more = jobs((0, "7g", 50), (1, "7g", 80), (2, "1g", 500))
    _, started = play(less, order="smallest-work")
    assert (started[2].start_ms, started[1].start_ms) == (50_600, 110_950)
    _, started = play(more, order="smallest-work")
    assert (started[2].start_ms, started[1].start_ms) == (50_600, 550_950)


def test_with_ageing_a_large_job_is_tried_first_once_it_is_old() -> None:
    # Whenever room is free, a short 7g is there that has less work than the long one. By the time the third
    # ends, the long one has waited for more than the limit of 250 s.
    short = [(100 * k, "7g", 99) for k in range(6)]
    queue = jobs((0, "7g", 99), (1, "7g", 1000), *short)
    limit = replace(ONE_GPU, age_limit_seconds=250.0)
    _, starved = play(queue, order="smallest-work")
    _, aged = play(queue, limit, order="smallest-work-aged")
    assert starved[1].start_ms == max(s.start_ms for s in starved.values())
    assert 250_000 < aged[1].start_ms < 400_000


def test_priority_goes_before_age() -> None:
    queue = jobs((0, "7g", 50, 0), (1, "7g", 10, 0), (2, "7g", 10, 1))
    _, by_age = play(queue)
    _, by_priority = play(queue, order="priority")
    assert by_age[1].start_ms < by_age[2].start_ms
    assert by_priority[2].start_ms < by_priority[1].start_ms


STEADY_SMALL = [(10 * k, "3g", 100) for k in range(40)]


def test_a_reservation_ends_the_starvation_of_a_whole_gpu() -> None:
    queue = jobs((5, "7g", 100), (0, "3g", 145), *STEADY_SMALL)
    reserving = replace(ONE_GPU, reservation=ReservationRule(50.0, WHOLE))
    _, starved = play(queue)
    measures, served = play(queue, reserving)
    assert starved[0].start_ms > 1_000_000
    # Reserved at 60 s, when one 3g runs until 145.35 s and the other until 100.35 s; that half stays closed.
    assert served[0].start_ms == 145_600
    assert measures["reservations"] == 1


def test_a_job_that_ends_in_time_may_run_in_a_reserved_place() -> None:
    # The 3g at 0 runs until 1000.35 s. The 7g reserves at 60 s; the other half would stand idle until then.
    queue = jobs((0, "3g", 1000), (5, "7g", 10), (60, "1g", 100), (70, "1g", 2000))
    rule = ReservationRule(50.0, WHOLE)
    _, closed = play(queue, replace(ONE_GPU, reservation=rule))
    _, backfilled = play(queue, replace(ONE_GPU, reservation=replace(rule, backfill=True)))
    assert closed[2].start_ms > 1_000_000
    assert backfilled[2].start_ms == 60_250
    assert backfilled[3].start_ms > 1_000_000
    assert closed[1].start_ms == backfilled[1].start_ms == 1_000_600


def test_requests_blocked_by_fragmentation_are_counted_once_each() -> None:
    # 1g jobs at slices 0 to 6; those at 1, 3 and 5 stay. Four compute and five memory slices are free then,
    # but no two neighbours at a start of a 2g.
    small = [(0, "1g", 10 if at % 2 == 0 else 500) for at in range(7)]
    measures, started = play(jobs(*small, (20, "2g", 10), (30, "2g", 10)))
    assert measures["request_fragmentation"] == 2
    assert started[7].start_ms > 500_000


def test_a_job_that_can_never_run_is_an_error() -> None:
    mix = replace(MIX, shapes=(replace(MIX.shapes[0], profile="2g.20gb"), *MIX.shapes[1:]))
    run = replace(ONE_GPU, trace=jobs((0, "7g", 1))).simulation(Arm("first_fit"), 0)
    run.cluster.occupy(99, mix.shapes[0], "node-0/gpu-0", 0)
    with pytest.raises(BadSimulationInput, match=r"1 jobs can never run.*7g\.80gb"):
        run.run()


def one_long_job_in_each_half() -> tuple[set[int], tuple[Job, ...]]:
    """Seven 1g jobs of which only one in each half lives long; then a 3g, which fits in no half."""
    _, stays = play(jobs(*[(0, "1g", 50)] * 7), policy="fgd")
    starts = {n: H100_STARTS[stay.index] for n, stay in stays.items()}
    long = {next(n for n, start in starts.items() if start in half) for half in (range(4), range(4, 7))}
    return long, jobs(*[(0, "1g", 1000 if n in long else 50) for n in range(7)], (100, "3g", 200))


H100_STARTS = [p.start for p in ONE_GPU.simulation(Arm("fgd"), 0).cluster.geometry.placements]


def test_a_move_opens_a_half_and_the_moved_job_repeats_what_it_lost() -> None:
    long, queue = one_long_job_in_each_half()
    rule = MoveRule(most_victims=1, costs=MoveCosts(checkpoint_every=60.0, restart=5.0))
    without, stays = play(queue, policy="fgd")
    assert without["moves"] == 0
    assert stays[7].start_ms == 1_000_600
    run = replace(ONE_GPU, trace=queue, moves=rule).simulation(Arm("fgd"), 0)
    measures = run.run()
    assert measures["moves"] == 1
    # Deleting 100 ms, creating 250 ms.
    assert next(s.start_ms for s in run.stays if s.job.number == 7) == 100_350
    (victim,) = (n for n in long if sum(s.job.number == n for s in run.stays) == 2)
    first, second = (s for s in run.stays if s.job.number == victim)
    assert (first.finish_ms, second.start_ms) == (100_000, 100_350)
    # It ran from 0.25 s to 100 s and repeats 39.75 s of it; 5 s to start again, 0.1 s to delete its slice.
    assert second.finish_ms == 100_350 + (1_000_000 - 99_750) + 39_750 + 5_000 + 100
    assert measures["gpu_seconds_lost"] == pytest.approx((39.75 + 5 + 0.35) / 8)


def test_a_job_opens_the_place_it_has_reserved_by_moving_what_drains_from_it() -> None:
    # Halves end at 100 s and 900 s on one GPU, at 150 s and 900 s on the other. At 60 s the 7g reserves the
    # other, whose halves end closer together. At 150 s half of it is free (and closed), and half of the first
    # is free for the 3g that must go.
    queue = jobs(
        (0, "3g", 100), (0, "3g", 900), (0, "3g", 150), (0, "3g", 900), (5, "7g", 50), (60, "3g", 10)
    )
    moving = replace(
        ONE_GPU,
        gpus_per_node=2,
        reservation=ReservationRule(50.0, WHOLE),
        moves=MoveRule(1, costs=MoveCosts(restart=0.0)),
    )
    measures, stays = play(queue, moving, policy="fgd")
    assert measures["moves"] == measures["reservations"] == 1
    assert stays[5].taken_ms == 100_350
    assert stays[4].taken_ms == 150_350
    _, unmoved = play(queue, replace(moving, moves=MoveRule()), policy="fgd")
    assert unmoved[4].taken_ms == 900_350


def test_moves_need_a_policy_with_values() -> None:
    with pytest.raises(BadSimulationInput, match=r"first_fit.*has none"):
        replace(ONE_GPU, moves=MoveRule(most_victims=1)).simulation(Arm("first_fit"), 0)


@pytest.mark.parametrize("order", ["fifo", "smallest-work", "smallest-work-aged", "priority"])
@pytest.mark.parametrize("geometry", ["memory", "gpc-slots"])
@pytest.mark.parametrize("reserve", [None, 300.0])
@pytest.mark.parametrize("victims", [0, 2])
def test_every_job_runs_once_and_slices_never_overlap(
    order: Order, geometry: GeometryKind, reserve: float | None, victims: int
) -> None:
    experiment = replace(
        ONE_GPU,
        gpus_per_node=2,
        geometry=geometry,
        reservation=ReservationRule(reserve, WHOLE | {"3g.40gb"}, at_once=2, backfill=True),
        age_limit_seconds=500.0,
        moves=MoveRule(most_victims=victims),
    )
    drawn = draw(
        Workload(mix=MIX, compute_slices=14, jobs=60, offered_load=1.3, priorities=(1.0, 1.0)), seed=7
    )
    run = replace(experiment, trace=drawn).simulation(Arm("fgd", order), 0)
    run.run()
    last = {stay.job.number: stay for stay in run.stays}
    assert sorted(last) == list(range(60))
    for one in run.stays:
        assert one.taken_ms >= one.job.arrival_ms
        assert one is not last[one.job.number] or one.finish_ms >= one.start_ms + 100
        if sum(stay.job.number == one.job.number for stay in run.stays) == 1:
            assert one.finish_ms == one.start_ms + one.job.runtime_ms + 100
        for other in run.stays:
            together = one.taken_ms < other.finish_ms and other.taken_ms < one.finish_ms
            if one is not other and together and one.gpu == other.gpu:
                assert not run.cluster.geometry.overlap(one.index, other.index)
