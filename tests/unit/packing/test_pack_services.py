"""Plans for services: fewest GPUs, every rate and bound held, and a reason when that cannot be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.gpu.profiles import model
from tessera.packing.boards import Pool
from tessera.packing.errors import BadPackingInput, NotEnoughGpus, WrongPlan
from tessera.packing.greedy import greedy_gpus
from tessera.packing.plan import Group, Tile
from tessera.packing.service_check import check_services
from tessera.packing.service_plan import pack_services
from tessera.packing.services import HeadRoom, Measurement, Question, Service, Use

NAMES = ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
ALL = HeadRoom(utilisation=1.0, latency_share=1.0)


def measured(
    profile: str,
    throughput: float,
    latency: float = 10.0,
    *,
    processes: int = 1,
    workload: str = "net",
    gpu: str = "H100-80GB",
) -> Measurement:
    return Measurement(workload, gpu, profile, processes, 8, throughput, latency)


def asked(
    pool: Pool, services: Sequence[Service], measurements: Sequence[Measurement], room: HeadRoom = ALL
) -> Question:
    return Question((pool,), tuple(services), tuple(measurements), room)


def covers(rate: int, throughputs: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every way to hold a rate with so many slices of each kind, none of which has a slice too many."""
    ranges = [range(ceil(rate / t) + 1) for t in throughputs]
    for counts in product(*ranges):
        held = sum(n * t for n, t in zip(counts, throughputs, strict=True))
        if held >= rate and all(held - t < rate for n, t in zip(counts, throughputs, strict=True) if n):
            yield counts


@settings(deadline=None, max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 90), st.dictionaries(st.sampled_from(range(6)), st.integers(10, 60), min_size=1)
        ),
        min_size=1,
        max_size=2,
    )
)
def test_plan_is_as_small_as_the_best_of_all_choices(
    h100: Pool, fits_8_slices: Callable[..., bool], wanted: list[tuple[int, dict[int, int]]]
) -> None:
    wanted = [(rate, dict(list(table.items())[:3])) for rate, table in wanted]
    services = [Service(f"s{i}", f"w{i}", rate, 100.0) for i, (rate, _) in enumerate(wanted)]
    table = [
        measured(NAMES[kind], throughput, workload=f"w{i}")
        for i, (_, found) in enumerate(wanted)
        for kind, throughput in found.items()
    ]
    plan = pack_services(asked(h100, services, table))
    fewest = 99
    for choice in product(*(covers(rate, list(found.values())) for rate, found in wanted)):
        counts = [0] * 6
        for (_, found), numbers in zip(wanted, choice, strict=True):
            for kind, number in zip(found, numbers, strict=True):
                counts[kind] += number
        fewest = min(fewest, next(g for g in range(1, 99) if fits_8_slices(g, *counts)))
    assert plan.proof.optimal
    assert plan.gpus == fewest


def test_head_room_is_kept(h100: Pool) -> None:
    services = [Service("a", "net", 100.0, 20.0)]
    table = [measured("7g.80gb", 100.0)]
    assert pack_services(asked(h100, services, table)).gpus == 1
    assert pack_services(asked(h100, services, table, HeadRoom(0.9, 0.5))).gpus == 2


def test_rates_of_any_size_are_planned(h100: Pool) -> None:
    table = [measured("1g.10gb", 1000.0)]
    for rate, slices in ((1e-6, 1), (1000.0, 1), (1001.0, 2), (5e6, 5000)):
        plan = pack_services(asked(h100, [Service("a", "net", rate, 20.0)], table))
        assert plan.shares[0].slices == slices
        assert plan.gpus == ceil(slices / 7)
    with pytest.raises(BadPackingInput, match="more than 100,000 slices"):
        pack_services(asked(h100, [Service("a", "net", 1e12, 20.0)], table))


def test_only_measurements_within_the_bound_count(h100: Pool) -> None:
    services = [Service("a", "net", 100.0, 20.0)]
    table = [measured("7g.80gb", 100.0, 25.0), measured("7g.80gb", 30.0, 9.0)]
    plan = pack_services(asked(h100, services, table))
    assert plan.gpus == 4
    assert plan.shares[0].latency_ms == 9.0


def test_slow_and_failed_measurements_leave_no_plan_and_a_reason(h100: Pool) -> None:
    services = [Service("a", "net", 100.0, 20.0)]
    table = [measured("1g.10gb", 30.0, 24.0), measured("7g.80gb", 0.0, 0.0)]
    with pytest.raises(BadPackingInput) as refused:
        pack_services(asked(h100, services, table, HeadRoom(0.9, 0.5)))
    assert "no slice answers within 10 ms" in str(refused.value)
    assert "the fastest is 1g.10gb of H100-80GB with 1 process, batch 8: 24 ms" in str(refused.value)
    assert "Raise its slo_ms to 48" in str(refused.value)


def test_a_workload_that_was_not_measured_is_named(h100: Pool, a30: Pool) -> None:
    table = [measured("7g.80gb", 100.0)]
    with pytest.raises(BadPackingInput, match=r"nothing is measured for workload 'ner'.*measured are net"):
        pack_services(asked(h100, [Service("a", "ner", 1.0, 20.0)], table))
    with pytest.raises(BadPackingInput, match=r"no measurement on A30-24GB.*measured on H100-80GB"):
        pack_services(asked(a30, [Service("a", "net", 1.0, 20.0)], table))


@pytest.mark.parametrize(
    ("services", "words"),
    [
        ([], "no service is given"),
        ([Service("a", "net", 0.0, 20.0)], "rate_per_second is 0"),
        ([Service("a", "net", -1.0, 20.0)], "rate_per_second is -1"),
        ([Service("a", "net", 1.0, float("inf"))], "slo_ms is inf"),
        ([Service("a", "net", 1.0, 20.0)] * 2, "given twice"),
    ],
)
def test_bad_services_are_refused(h100: Pool, services: list[Service], words: str) -> None:
    with pytest.raises(BadPackingInput, match=words):
        pack_services(asked(h100, services, [measured("7g.80gb", 100.0)]))


def test_head_room_is_a_part(h100: Pool) -> None:
    with pytest.raises(BadPackingInput, match=r"the utilisation is 1\.2"):
        HeadRoom(utilisation=1.2)
    with pytest.raises(BadPackingInput, match="the latency share is 0"):
        HeadRoom(latency_share=0)


def test_limits_that_are_too_low_are_refused(h100: Pool) -> None:
    question = asked(replace(h100, limit=2), [Service("a", "net", 300.0, 20.0)], [measured("7g.80gb", 100.0)])
    with pytest.raises(NotEnoughGpus, match="without limits 3 GPUs are needed"):
        pack_services(question)


def test_the_cheaper_model_is_taken(h100: Pool) -> None:
    old = Pool(model("A100-80GB"), cost=1.0)
    table = [measured("7g.80gb", 100.0), measured("7g.80gb", 60.0, gpu="A100-80GB")]
    question = replace(
        asked(h100, [Service("a", "net", 100.0, 20.0)], table), pools=(replace(h100, cost=3.0), old)
    )
    plan = pack_services(question)
    assert [(group.model, group.count) for group in plan.groups] == [("A100-80GB", 2)]


def test_services_that_may_share_a_slice_need_fewer(h100: Pool) -> None:
    services = [Service("a", "net", 40.0, 20.0), Service("b", "other", 30.0, 20.0)]
    table = [
        measured("7g.80gb", 60.0),
        measured("7g.80gb", 80.0, processes=2),
        measured("7g.80gb", 60.0, workload="other"),
        measured("7g.80gb", 70.0, processes=2, workload="other"),
    ]
    question = asked(h100, services, table)
    assert pack_services(question).gpus == 2
    plan = pack_services(replace(question, share_slices=True))
    assert plan.gpus == 1
    assert str(plan.groups[0].tiles[0].use) == "1 x a, batch 8 + 1 x b, batch 8"
    assert [share.slices for share in plan.shares] == [0.5, 0.5]
    assert [share.capacity_per_second for share in plan.shares] == [40.0, 35.0]


def test_a_shared_slice_has_no_more_seats_than_were_measured(h100: Pool) -> None:
    services = [Service(name, "net", 10.0, 20.0) for name in "abc"]
    table = [measured("7g.80gb", 40.0), measured("7g.80gb", 40.0, processes=2)]
    plan = pack_services(replace(asked(h100, services, table), share_slices=True))
    assert plan.gpus == 2
    assert (
        sum(group.count * len(tile.use.seats) for group in plan.groups for tile in group.tiles if tile.use)
        == 3
    )


def test_greedy_planner_fills_the_rest_with_the_smallest_slice_that_is_enough(h100: Pool) -> None:
    table = [measured("3g.40gb", 40.0), measured("1g.10gb", 10.0)]
    # Two 3g leave 5 per second, for which a 1g is enough: 3g + 3g, and the 1g on a second GPU.
    assert greedy_gpus(asked(h100, [Service("a", "net", 85.0, 20.0)], table)) == 2
    assert greedy_gpus(asked(replace(h100, limit=4), [Service("a", "net", 85.0, 20.0)], table)) is None


def group_of(*uses: tuple[int, str, Use]) -> list[Group]:
    return [Group("H100-80GB", 1, tuple(Tile(start, profile, use) for start, profile, use in uses))]


def test_the_check_refuses_plans_that_miss_a_rate_or_a_bound(h100: Pool) -> None:
    one, slow = measured("3g.40gb", 40.0), measured("3g.40gb", 90.0, 50.0)
    question = asked(h100, [Service("a", "net", 80.0, 20.0)], [one, slow])
    use = Use((("a", one),))
    assert check_services(question, group_of((0, "3g.40gb", use), (4, "3g.40gb", use)))[0].load_pct == 100
    with pytest.raises(WrongPlan, match="40 per second is planned for 80"):
        check_services(question, group_of((0, "3g.40gb", use)))
    with pytest.raises(WrongPlan, match="50 ms is planned for a bound of 20 ms"):
        check_services(question, group_of((0, "3g.40gb", Use((("a", slow),)))))
    with pytest.raises(WrongPlan, match="in a way that was not measured there"):
        check_services(question, group_of((0, "4g.40gb", use)))
    with pytest.raises(WrongPlan, match="holds nothing"):
        check_services(question, [Group("H100-80GB", 1, (Tile(0, "3g.40gb"),))])
    with pytest.raises(WrongPlan, match="seats that do not go together"):
        check_services(question, group_of((0, "3g.40gb", Use((("a", one), ("a", one))))))
