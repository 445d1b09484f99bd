"""The exact plan for a list of requests: optimal, legal, proven, and refused with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.gpu.profiles import GPUModel, Placement, models
from tessera.packing.boards import Pool
from tessera.packing.errors import BadPackingInput, NotEnoughGpus, WrongPlan
from tessera.packing.plan import Group, Tile, check_demand, check_layouts, counts_of
from tessera.packing.requests import pack_requests

W8 = models()["H100-80GB"]
W8_NAMES = ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")
BOARDS = ("H100-80GB", "A30-24GB", "RTXPRO6000-96GB")


def fewest_by_trying_all(board: GPUModel, requests: Sequence[str]) -> int:
    """Brute force over every assignment, from the profile table alone."""

    def clash(placement: Placement, other: Placement) -> bool:
        one_set = placement.profile.media_extensions and other.profile.media_extensions
        return placement.overlaps(other) or one_set

    engines = (
        max(p.decoders or 0 for p in board.profiles) if any(p.all_media for p in board.profiles) else None
    )

    def put(at: int, gpus: list[list[Placement]], most: int) -> bool:
        if at == len(requests):
            return True
        profile = board.profile(requests[at])
        for gpu in [*gpus, []] if len(gpus) < most else gpus:
            used = sum(p.profile.decoders or 0 for p in gpu)
            if engines is not None and used + (profile.decoders or 0) > engines:
                continue
            for start in profile.starts:
                placement = Placement(profile, start)
                if any(clash(placement, other) for other in gpu):
                    continue
                others = [g for g in gpus if g is not gpu]
                if put(at + 1, [*others, [*gpu, placement]], most):
                    return True
        return False

    return next(most for most in range(1, len(requests) + 1) if put(0, [], most))


@st.composite
def few_requests(draw: st.DrawFn) -> tuple[str, list[str]]:
    name = draw(st.sampled_from(BOARDS))
    profiles = [profile.name for profile in models()[name].profiles]
    return name, draw(st.lists(st.sampled_from(profiles), min_size=1, max_size=6))


def demand_of(requests: Sequence[str]) -> dict[str, int]:
    return {profile: requests.count(profile) for profile in dict.fromkeys(requests)}


@settings(deadline=None, max_examples=20)
@given(few_requests())
def test_plan_is_as_small_as_the_best_of_all_assignments(case: tuple[str, list[str]]) -> None:
    name, requests = case
    plan = pack_requests([Pool(models()[name])], demand_of(requests))
    assert plan.proof.optimal
    assert plan.gpus == fewest_by_trying_all(models()[name], requests)


@settings(deadline=None, max_examples=20)
@given(st.tuples(*[st.integers(0, 60)] * 6).filter(any))
def test_plan_agrees_with_the_closed_form_on_8_slices(
    fits_8_slices: Callable[..., bool], counts: tuple[int, ...]
) -> None:
    demand = {name: count for name, count in zip(W8_NAMES, counts, strict=True) if count}
    plan = pack_requests([Pool(W8)], demand)
    assert plan.proof.optimal
    assert fits_8_slices(plan.gpus, *counts)
    assert plan.gpus == 1 or not fits_8_slices(plan.gpus - 1, *counts)


def test_plan_of_500_requests_is_proven_by_exact_arithmetic(h100: Pool) -> None:
    plan = pack_requests(
        [h100], {"1g.10gb": 93, "1g.20gb": 82, "2g.20gb": 87, "3g.40gb": 79, "4g.40gb": 94, "7g.80gb": 65}
    )
    # 93 + 2 * 82 + 2 * 87 + 4 * 79 + 4 * 94 + 8 * 65 = 1643 memory slices, 8 per GPU.
    assert plan.gpus == 206
    assert plan.proof.certified
    assert plan.proof.lower_bound == 206


def test_what_is_over_is_taken_from_few_gpus(h100: Pool) -> None:
    plan = pack_requests([h100], {"1g.10gb": 15})
    assert sorted((group.count, len(group.tiles)) for group in plan.groups) == [(1, 1), (2, 7)]


def test_cheap_gpus_are_used_up_first(h100: Pool) -> None:
    cheap = Pool(models()["A100-80GB"], cost=1, limit=2)
    plan = pack_requests([replace(h100, cost=3), cheap], {"7g.80gb": 3})
    assert [(group.model, group.count) for group in plan.groups] == [("A100-80GB", 2), ("H100-80GB", 1)]
    assert plan.proof.cost == 5


def test_each_request_goes_to_a_model_that_has_its_profile(h100: Pool, a30: Pool) -> None:
    plan = pack_requests([h100, a30], {"1g.6gb": 4, "7g.80gb": 1})
    assert {group.model for group in plan.groups} == {"H100-80GB", "A30-24GB"}


def test_limits_that_are_too_low_are_refused_with_what_is_needed(h100: Pool) -> None:
    with pytest.raises(NotEnoughGpus) as refused:
        pack_requests([replace(h100, limit=2)], {"7g.80gb": 3})
    assert "3 H100-80GB are needed" in str(refused.value)


@pytest.mark.parametrize(
    ("demand", "words"),
    [
        ({}, "nothing is asked for"),
        ({"7g.80gb": 0}, "at least 1"),
        ({"7g.80gb": -2}, "at least 1"),
        ({"7g.80gb": 10**9}, "at most 10,000,000"),
        ({"7g.80g": 1}, "Did you mean 7g.80gb"),
    ],
)
def test_bad_questions_are_refused(h100: Pool, demand: dict[str, int], words: str) -> None:
    with pytest.raises(BadPackingInput) as refused:
        pack_requests([h100], demand)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("tiles", "words"),
    [
        ((Tile(0, "3g.40gb"), Tile(3, "1g.10gb")), "overlaps"),
        ((Tile(2, "3g.40gb"),), "cannot start at 2"),
        ((Tile(0, "1g.10gb+me"), Tile(1, "1g.10gb+me")), "media extensions"),
    ],
)
def test_the_check_refuses_illegal_layouts(h100: Pool, tiles: tuple[Tile, ...], words: str) -> None:
    with pytest.raises(WrongPlan, match=words):
        check_layouts([h100], [Group("H100-80GB", 1, tiles)])


def test_the_check_refuses_more_gpus_than_exist(h100: Pool) -> None:
    with pytest.raises(WrongPlan, match="2 GPUs of H100-80GB are planned, 1 exist"):
        check_layouts([replace(h100, limit=1)], [Group("H100-80GB", 2, (Tile(0, "7g.80gb"),))])


def test_the_check_refuses_a_plan_that_misses_a_request() -> None:
    groups = [Group("H100-80GB", 2, (Tile(0, "7g.80gb"),))]
    check_demand({"7g.80gb": 2}, groups)
    assert counts_of(groups) == {"7g.80gb": 2}
    with pytest.raises(WrongPlan):
        check_demand({"7g.80gb": 3}, groups)
