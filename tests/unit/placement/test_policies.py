"""Where each policy puts a slice, on states small enough to check by hand; and the names of the policies."""

from __future__ import annotations

import pytest
from tessera.placement.engine import Engine
from tessera.placement.geometry import Geometry
from tessera.placement.layouts import EMPTY, layout_table
from tessera.placement.policies import (
    DEFAULT_POLICY,
    POLICIES,
    FragmentationGradient,
    FragmentationTenancy,
    MaximumCapability,
    MinimumFragmentationIncrease,
    Policy,
    UnknownPolicy,
    ValuePolicy,
    make_policy,
)
from tessera.placement.score import ArrivalHistogram, blocked_starts, tenancy
from tessera.placement.state import ClusterState


def _layout(geometry: Geometry, *placements: tuple[str, int]) -> int:
    indices = [geometry.index_of(profile, start) for profile, start in placements]
    return layout_table(geometry).number_of(tuple(i for i in indices if i is not None))


def _cluster(geometry: Geometry, *gpus: list[tuple[str, int]]) -> ClusterState:
    """One GPU per list of placements."""
    state = ClusterState()
    for number, held in enumerate(gpus):
        state.add_gpu(f"gpu-{number}", node="node", geometry=geometry)
        for profile, start in held:
            index = geometry.index_of(profile, start)
            assert index is not None
            state.occupy_at(number, index, (number, profile, start))
    return state


def _choice(state: ClusterState, policy: str | Policy, profile: str) -> tuple[int, int] | None:
    """(GPU number, start) of the choice."""
    engine = Engine(make_policy(policy) if isinstance(policy, str) else policy)
    chosen = engine.choose(state, profile)
    if chosen is None:
        return None
    return chosen[0], state.gpus[chosen[0]].geometry.placements[chosen[1]].start


HALF_FULL: list[tuple[str, int]] = [("3g.40gb", 4)]
NEARLY_FULL: list[tuple[str, int]] = [("4g.40gb", 0), ("2g.20gb", 4)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("first_fit", (0, 0)),
        ("best_fit", (2, 6)),
        ("worst_fit", (0, 0)),
        ("best_fit_hami", (2, 6)),
        ("best_fit_mfi", (2, 6)),
        ("mcc", (2, 6)),  # a slice that only 1g can use; nothing else is lost
        ("mfi", (2, 6)),
        ("fgd", (2, 6)),
        ("fgd-h", (2, 6)),
    ],
)
def test_which_gpu_a_policy_takes(w8: Geometry, policy: str, expected: tuple[int, int]) -> None:
    state = _cluster(w8, [], HALF_FULL, NEARLY_FULL)
    assert _choice(state, policy, "1g.10gb") == expected


@pytest.mark.parametrize(
    ("policy", "starts"),
    [
        ("best_fit", {"1g.10gb": 0, "2g.20gb": 0, "3g.40gb": 0}),
        # HAMi v2.10: 1g of both sizes and 3g from the high end.
        ("best_fit_hami", {"1g.10gb": 6, "1g.20gb": 6, "2g.20gb": 0, "3g.40gb": 4, "4g.40gb": 0}),
        # The longest run left: 1g at 0 leaves 1-7. 3g at 4 leaves more legal placements than 3g at 0.
        ("best_fit_hami_master", {"1g.10gb": 0, "3g.40gb": 4}),
        # 1g at 0 blocks 1g@0, 1g.20gb@0, 2g@0, 3g@0 and 4g@0; at 6 only 1g@6, 1g.20gb@6 and 3g@4.
        ("best_fit_mfi", {"1g.10gb": 6, "3g.40gb": 4}),
        ("mfi", {"1g.10gb": 6, "3g.40gb": 4}),
        ("mcc", {"1g.10gb": 6, "3g.40gb": 4}),
        ("fgd", {"1g.10gb": 6, "3g.40gb": 4}),
    ],
)
def test_where_on_an_empty_gpu_a_policy_starts(
    w8_double: Geometry, policy: str, starts: dict[str, int]
) -> None:
    for profile, start in starts.items():
        assert _choice(_cluster(w8_double, []), policy, profile) == (0, start)


def test_round_robin_goes_on_behind_the_gpu_it_used_last(w8: Geometry) -> None:
    state = _cluster(w8, [], [("7g.80gb", 0)], [], [])
    engine = Engine(make_policy("round_robin"))
    taken = []
    for owner in range(5):
        chosen = engine.choose(state, "3g.40gb")
        assert chosen is not None
        state.occupy_at(*chosen, owner)
        taken.append(chosen[0])
    assert taken == [0, 2, 3, 0, 2]


def test_blocked_starts_are_weighed_by_size(w8: Geometry) -> None:
    table = layout_table(w8)
    assert blocked_starts(w8, 0) == 0
    # 1g at 0: one start of 1g, one of 2g, one of 3g, the one of 4g; 7g does not count, seven slices are free.
    assert blocked_starts(w8, table.keys[_layout(w8, ("1g.10gb", 0))]) == 1 + 2 + 4 + 4
    assert blocked_starts(w8, table.keys[_layout(w8, ("1g.10gb", 6))]) == 1 + 4


def test_values_are_those_of_their_definitions(w8: Geometry) -> None:
    layout = _layout(w8, ("1g.10gb", 0), ("1g.10gb", 1))
    # Six free slices, useless to 4g and 7g. Left: 1g at 2-6, 2g at 2 and 4, 3g at 4.
    fgd = FragmentationGradient()
    assert fgd.fragmentation(w8, layout) == pytest.approx(6 * 2 / 5)
    assert fgd.value(w8, layout) == pytest.approx(6 * 2 / 5 - 8e-6, abs=1e-12)
    assert FragmentationTenancy().value(w8, layout) == pytest.approx(6 * 2 / 5 - 8e-6 + 1.5, abs=1e-12)
    assert MaximumCapability().value(w8, layout) == -8
    assert MinimumFragmentationIncrease().value(w8, layout) == 2 * 1 + 2 + 4 + 4
    assert tenancy(0) == 0
    assert tenancy(4) == pytest.approx(25 / 12)


@pytest.mark.parametrize("name", ["fgd", "fgd-h", "table", "mfi", "mcc"])
def test_the_delta_is_the_value_after_less_the_value_before(w8: Geometry, name: str) -> None:
    policy = make_policy(name)
    assert isinstance(policy, ValuePolicy)
    index = w8.index_of("1g.10gb", 6)
    assert index is not None
    after = layout_table(w8).after_placed(EMPTY, index)
    assert policy.delta(w8, EMPTY, index) == policy.value(w8, after) - policy.value(w8, EMPTY)


def test_fgd_h_spares_the_gpu_that_a_single_tenant_may_soon_leave_empty(w8: Geometry) -> None:
    """Both halves are equally useful to FGD, but the first GPU has one tenant and the second has two."""
    state = _cluster(w8, [("3g.40gb", 0)], [("2g.20gb", 0), ("2g.20gb", 2)])
    assert _choice(state, "fgd", "3g.40gb") == (0, 4)
    assert _choice(state, "fgd-h", "3g.40gb") == (1, 4)


def test_weights_follow_the_arrivals_only_when_they_are_off(w8: Geometry) -> None:
    policy = FragmentationGradient()
    before = policy.weights(w8)
    policy.record("7g.80gb")
    assert policy.weights(w8) is before  # one arrival says little
    for profile in w8.profiles * 20:
        policy.record(profile)
    version, before = policy.version, policy.weights(w8)
    for profile in w8.profiles * 100:
        policy.record(profile)
    assert policy.version == version  # the mix is what it was
    assert policy.weights(w8) is before
    for _ in range(300):
        policy.record("7g.80gb")
    assert policy.version > version
    assert policy.weights(w8)["7g.80gb"] > before["7g.80gb"] + 0.1
    # 7g is blocked by a 1g anywhere, so that now costs more.
    assert policy.value(w8, _layout(w8, ("1g.10gb", 0))) > FragmentationGradient().value(
        w8, _layout(w8, ("1g.10gb", 0))
    )


def test_a_choice_follows_what_the_policy_has_learned(w8: Geometry) -> None:
    """The engine keeps no rank of the weights before: when whole GPUs are asked for, the empty one is
    spared; when only 4g is, the right half of an empty GPU costs nothing.
    """
    state = _cluster(w8, [], [("1g.10gb", 0)])
    engine = Engine(FragmentationGradient(ArrivalHistogram(half_life=10)))
    for _ in range(100):
        engine.policy.record("4g.40gb")
    learned_4g = engine.choose(state, "3g.40gb")
    for _ in range(100):
        engine.policy.record("7g.80gb")
    learned_7g = engine.choose(state, "3g.40gb")
    assert learned_4g is not None and learned_7g is not None
    assert (learned_4g[0], learned_7g[0]) == (1, 1)
    fresh = Engine(FragmentationGradient(ArrivalHistogram(half_life=10)))
    for _ in range(100):
        fresh.policy.record("7g.80gb")
    assert fresh.choose(state, "3g.40gb") == learned_7g


def test_new_gpus_and_new_models_are_seen_at_once(w8: Geometry, w4: Geometry) -> None:
    state = _cluster(w8, [("7g.80gb", 0)])
    engine = Engine(make_policy("fgd"))
    assert engine.choose(state, "1g.10gb") is None
    assert engine.choose(state, "1g.6gb") is None
    state.add_gpu("gpu-1", node="node", geometry=w8)
    state.add_gpu("gpu-2", node="node", geometry=w4)
    chosen, other = engine.choose(state, "1g.10gb"), engine.choose(state, "1g.6gb")
    assert chosen is not None and chosen[0] == 1
    assert other is not None and other[0] == 2
    assert engine.choose(_cluster(w8, []), "1g.10gb") is not None  # another cluster, the same engine


def test_names_may_be_written_with_hyphens_or_underscores() -> None:
    assert POLICIES["fgd_h"] is POLICIES["fgd-h"]
    assert POLICIES["best-fit-hami"] is POLICIES["best_fit_hami"]
    assert POLICIES["default"] is POLICIES[DEFAULT_POLICY]
    assert "round-robin" in POLICIES
    assert "default" not in list(POLICIES)
    assert all(make_policy(name).name == name for name in POLICIES)


def test_an_unknown_policy_is_told_with_the_nearest_names() -> None:
    assert "best" not in POLICIES
    with pytest.raises(UnknownPolicy, match="placement policy 'best' does not exist; nearest: best_fit"):
        make_policy("best")
