"""Chunked sets of GPU numbers behave like Python's sets, across the borders of their chunks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import GpuSet, bits_of, filter_of, first_of, numbers, union_bits
from tessera.placement.layouts import EMPTY
from tessera.placement.state import Pool

# Few numbers, so that additions and removals meet; around the borders of chunks of 256.
SOME = st.sampled_from([0, 1, 7, 255, 256, 257, 511, 512, 70_000, 79_999])


def _made(members: set[int]) -> GpuSet:
    made = GpuSet()
    for number in members:
        made.add(number)
    return made


@settings(max_examples=50, deadline=None)
@given(st.lists(SOME, max_size=30))
def test_the_sets_of_a_pool_follow_python_sets(w8: Geometry, changes: list[int]) -> None:
    """GPUs go between two layouts, also when they are the first or the last of their chunk there."""
    pool = Pool(w8)
    taken = pool.table.after_placed(EMPTY, 0)
    plain: dict[int, set[int]] = {EMPTY: set(changes), taken: set()}
    for number in plain[EMPTY]:
        pool.put(number, EMPTY)
    for number in changes:
        before, after = (EMPTY, taken) if number in plain[EMPTY] else (taken, EMPTY)
        pool.move(number, before, after)
        plain[before].remove(number)
        plain[after].add(number)
        assert pool.present == sum(1 << layout for layout, members in plain.items() if members)
        for layout, members in plain.items():
            made = pool.buckets[layout]
            assert list(made) == sorted(members)
            assert (made.count(), made.summary != 0) == (len(members), bool(members))
            if members:
                assert made.lowest() == min(members)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(SOME), min_size=1, max_size=4), st.sets(SOME), st.sets(SOME), SOME)
def test_the_first_member_in_a_filter_is_the_lowest_from_the_start_on(
    sets: list[set[int]], one: set[int], other: set[int], start: int
) -> None:
    made = [_made(members) for members in sets]
    together = set[int]().union(*sets)
    within = filter_of(bits_of(one), bits_of(other))
    assert first_of(made, start=start) == min((n for n in together if n >= start), default=None)
    expected = min((n for n in together & one & other if n >= start), default=None)
    assert first_of(made, within=within, start=start) == expected
    assert made[0].count(within) == len(sets[0] & one & other)
    assert all(within.admits(n) == (n in one & other) for n in together)


@given(st.sets(SOME))
def test_integers_and_numbers_are_the_same_set(members: set[int]) -> None:
    bits = bits_of(members)
    assert bits == sum(1 << number for number in members)
    assert list(numbers(bits)) == sorted(members)
    assert union_bits([_made(members)]) == bits
    assert filter_of(bits, bits_of([0, 256])).flat == bits & (1 | 1 << 256)
