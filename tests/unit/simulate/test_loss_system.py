"""Small workloads by hand: what is decided, moved, counted and logged."""

from __future__ import annotations

import math

import pytest
from tessera.placement.geometry import Geometry, LegalPlacement
from tessera.placement.policies import make_policy
from tessera.simulate.cluster import Cluster, parse_cluster
from tessera.simulate.costs import MoveCosts
from tessera.simulate.decision_log import log_lines
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.loss_system import Outcome, Relocation, run
from tessera.simulate.measures import measure
from tessera.simulate.mover import MoveRules
from tessera.simulate.pool import pool_decisions
from tessera.simulate.workload import Workload

SMALL, DOUBLE, HALF, WHOLE = "1g.10gb", "2g.20gb", "3g.40gb", "7g.80gb"
COSTS = MoveCosts(checkpoint_every=10, restart=2, create=0.5, delete=0.25)


def cluster(gpus: int) -> Cluster:
    return parse_cluster(["H100-80GB"], gpus=gpus)


def workload(*steps: str, movable: bool = True) -> Workload:
    """Steps such as "+1g.10gb" (the next request arrives) and "-0" (request 0 leaves), a second apart."""
    profiles = tuple(dict.fromkeys(step[1:] for step in steps if step[0] == "+"))
    arrivals: list[float] = []
    wanted: list[int] = []
    departures: dict[int, float] = {}
    events = []
    for time, step in enumerate(steps):
        if step[0] == "+":
            events.append(len(arrivals))
            arrivals.append(float(time))
            wanted.append(profiles.index(step[1:]))
        else:
            events.append(~int(step[1:]))
            departures[int(step[1:])] = float(time)
    return Workload(
        profiles=profiles,
        arrivals=arrivals,
        departures=[departures.get(i, math.inf) for i in range(len(arrivals))],
        wanted=wanted,
        events=events,
        movable=[movable] * len(arrivals),
    )


def decide(work: Workload, gpus: int, policy: str = "first_fit", victims: int = 0) -> Outcome:
    rules = MoveRules(most_victims=victims)
    return run(work, cluster(gpus), make_policy(policy), rules=rules, costs=COSTS)


def lines(work: Workload, gpus: int, outcome: Outcome) -> list[tuple[object, ...]]:
    found = log_lines(work, cluster(gpus), outcome)
    return [(line["id"], line["op"], line["gpu"], line["start"]) for line in found]


def test_what_fits_nowhere_is_lost_and_its_departure_is_nothing() -> None:
    work = workload(f"+{WHOLE}", f"+{SMALL}", "-1", "-0", f"+{SMALL}")
    outcome = decide(work, 1)
    assert lines(work, 1, outcome) == [
        (0, "place", 0, 0),
        (1, "reject", None, None),
        (0, "release", 0, 0),
        (2, "place", 0, 0),
    ]


def test_a_move_makes_room_and_is_logged_before_the_place() -> None:
    # Two 3g fill GPU 0; the first leaves, a 2g takes its half, and a 7g finds GPU 1 blocked by the last 3g.
    work = workload(f"+{HALF}", f"+{HALF}", f"+{HALF}", "-0", f"+{WHOLE}")
    assert lines(work, 2, decide(work, 2, "fgd"))[-1] == (3, "reject", None, None)
    moved = lines(work, 2, decide(work, 2, "fgd", victims=1))
    assert [op for _, op, _, _ in moved] == ["place"] * 3 + ["release", "move", "place"]
    victim, _, target, _ = moved[4]
    assert target != moved[5][2]
    assert victim in (1, 2)


def test_what_is_not_movable_stays() -> None:
    work = workload(f"+{HALF}", f"+{HALF}", f"+{HALF}", "-0", f"+{WHOLE}", movable=False)
    assert lines(work, 2, decide(work, 2, "fgd", victims=1))[-1] == (3, "reject", None, None)


def test_a_policy_without_values_cannot_plan_moves() -> None:
    with pytest.raises(BadSimulationInput, match="first_fit with --max-victims 1"):
        decide(workload(f"+{SMALL}"), 1, "first_fit", victims=1)


def test_a_ration_starts_empty() -> None:
    work = workload(f"+{HALF}", f"+{HALF}", f"+{HALF}", "-0", f"+{WHOLE}")
    rules = MoveRules(most_victims=2, moves_per_100=5.0)
    outcome = run(work, cluster(2), make_policy("fgd"), rules=rules, costs=COSTS)
    assert outcome.relocations == {}


def test_the_figures_of_a_small_run_by_hand() -> None:
    # One GPU: 1g at 0 for 3 s; a 7g is lost; then a 7g for the last second.
    work = workload(f"+{SMALL}", f"+{WHOLE}", "-1", "-0", f"+{WHOLE}", f"+{SMALL}")
    outcome = decide(work, 1)
    pool = pool_decisions(work, cluster(1))
    assert pool == [True, False, True, False]
    figures, series = measure(work, cluster(1), outcome, pool=pool, costs=COSTS)
    assert figures["slice_acceptance_pct"] == pytest.approx(100 * (1 + 8) / (1 + 8 + 8 + 1))
    assert figures["gap_to_pool_pct"] == 0
    assert figures["acceptance_pct"] == 50
    assert figures["per_profile_acceptance_pct"] == {SMALL: 50, WHOLE: 50}
    # Five seconds: three with one slice taken, one with none, one with all eight.
    assert figures["utilisation_pct"] == pytest.approx(100 * (3 * 1 + 0 + 8) / (5 * 8))
    assert figures["fragmentation_pct"] == 0
    assert figures["moves_per_100"] == 0
    assert series.utilisation_pct[0] == 12.5


def test_fragmentation_is_what_the_longest_run_leaves() -> None:
    # 2g at 0 and 2g at 4 on one GPU: free are 2-3 and 6-7, the longest run is half of it.
    work = workload(f"+{DOUBLE}", f"+{DOUBLE}", f"+{DOUBLE}", "-1", f"+{WHOLE}")
    figures, _ = measure(work, cluster(1), decide(work, 1), pool=[True] * 4, costs=COSTS)
    # Second by second: [0], [0, 2], [0, 2, 4], [0, 4], and then the last event.
    assert figures["fragmentation_pct"] == pytest.approx(100 * (0 + 0 + 0 + 0.5) / 4)


def test_a_move_loses_the_time_since_the_last_checkpoint_and_the_restart() -> None:
    work = workload(f"+{HALF}", f"+{HALF}", f"+{HALF}", "-0", f"+{WHOLE}")
    outcome = Outcome(
        placed=[(0, _at(HALF, 0)), (0, _at(HALF, 4)), (1, _at(HALF, 0)), (1, _at(WHOLE, 0))],
        relocations={3: (Relocation(2, (0, _at(HALF, 0))),)},
    )
    figures, _ = measure(work, cluster(2), outcome, pool=[True] * 4, costs=COSTS)
    # It ran from 2 s to 4 s, on half a GPU.
    assert figures["gpu_seconds_lost"] == pytest.approx(0.5 * (2 + 2 + 0.5 + 0.25))
    assert figures["moves_per_100"] == pytest.approx(100 * 1 / 4)
    assert COSTS.gpu_seconds(*_placement(WHOLE, 0), ran_for=25) == pytest.approx(5 + 2.75)


def test_models_that_share_no_profile_are_separate_pools() -> None:
    mixed = parse_cluster(["H100-80GB:1", "A30:1"], gpus=None)
    work = workload(f"+{WHOLE}", f"+{SMALL}", "+1g.6gb", "+4g.24gb")
    assert pool_decisions(work, mixed) == [True, False, True, False]


def _at(profile: str, start: int) -> int:
    found = cluster(1).geometries[0].index_of(profile, start)
    assert found is not None
    return found


def _placement(profile: str, start: int) -> tuple[Geometry, LegalPlacement]:
    geometry = cluster(1).geometries[0]
    return geometry, geometry.placements[_at(profile, start)]


def test_gpus_are_emptied_while_nobody_needs_room_and_then_take_a_whole_one() -> None:
    # Two GPUs are half used when the fifth request comes; the account is full after that many.
    steps = (f"+{HALF}", f"+{HALF}", f"+{HALF}", "-1", f"+{SMALL}", "-3", f"+{WHOLE}", f"+{SMALL}")
    work = workload(*steps)
    rules = MoveRules(moves_per_100=100.0, compact_every=4.0)
    outcome = run(work, cluster(2), make_policy("fgd-h"), rules=rules, costs=COSTS)
    (at,) = outcome.compactions
    assert len(outcome.compactions[at]) == 1
    without = run(work, cluster(2), make_policy("fgd-h"), rules=MoveRules(), costs=COSTS)
    assert without.placed[4] is None
    assert outcome.placed[4] is not None
    ops = [op for _, op, *_ in lines(work, 2, outcome)]
    assert ops.count("move") == 1
    figures, _ = measure(work, cluster(2), outcome, pool=[True] * 6, costs=COSTS)
    assert figures["moves_per_100"] == pytest.approx(100 / ops.count("place"))
    assert figures["gpu_seconds_lost"] > 0


@pytest.mark.parametrize("rules", [{}, {"moves_per_100": 5.0, "compact_every": 0.0}])
def test_gpus_are_emptied_from_a_ration_only(rules: dict[str, float]) -> None:
    with pytest.raises(BadSimulationInput, match="--max-moves-per-100"):
        MoveRules(**({"compact_every": 60.0} | rules))  # type: ignore[arg-type]
