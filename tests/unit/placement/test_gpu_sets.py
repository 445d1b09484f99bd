"""Chunked sets of GPU numbers behave like Python's sets, across the borders of their chunks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tessera.placement.gpu_sets import GpuSet, bits_of, filter_of, first_of, numbers, union_bits

# Few numbers, so that additions and removals meet; around the borders of chunks of 256.
SOME = st.sampled_from([0, 1, 7, 255, 256, 257, 511, 512, 70_000, 79_999])


def _made(members: set[int]) -> GpuSet:
    made = GpuSet()
    for number in members:
        made.add(number)
    return made


@settings(max_examples=50, deadline=None)
@given(st.lists(SOME, max_size=30))
def test_a_gpu_set_follows_a_python_set(toggles: list[int]) -> None:
    made, plain = GpuSet(), set[int]()
    for number in toggles:
        if number in plain:
            made.remove(number)
        else:
            made.add(number)
        plain ^= {number}
        assert list(made) == sorted(plain)
        assert (len(made), bool(made)) == (len(plain), bool(plain))
        assert all((other in made) == (other in plain) for other in toggles)
        if plain:
            assert made.lowest() == min(plain)


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
