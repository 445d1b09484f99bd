"""The draw of a run: Go's random numbers, the pods that arrive, the order of the nodes."""

from __future__ import annotations

import pytest
from tessera.simulate.openb.arrivals import draw
from tessera.simulate.openb.go_random import GoRandom, seeding_table
from tessera.simulate.openb.trace import PodType

HALF = PodType(cpu_milli=1000, memory_mib=10, gpus=1, gpu_milli=500)
WHOLE = PodType(cpu_milli=4000, memory_mib=10, gpus=1, gpu_milli=1000)
FOUR = PodType(cpu_milli=16000, memory_mib=10, gpus=4, gpu_milli=1000)
CPU_ONLY = PodType(cpu_milli=8000, memory_mib=10, gpus=0, gpu_milli=0)


def test_the_computed_table_is_the_one_in_gos_source() -> None:
    # First and last word of rngCooked in src/math/rand/rng.go.
    signed = [word - (1 << 64) if word >> 63 else word for word in seeding_table()]
    assert len(signed) == 607
    assert signed[:3] == [-4181792142133755926, -4576982950128230565, 1395769623340756751]


def test_the_numbers_are_those_of_go() -> None:
    # Printed by Go 1.26: rand.New(rand.NewSource(42)), Int63, Intn(1000), Shuffle of 0 to 9.
    random = GoRandom(42)
    assert random.int63() == 3440579354231278675
    assert random.intn(1000) == 987
    order = list(range(10))
    random.shuffle(order)
    assert order == [7, 9, 3, 5, 8, 4, 2, 0, 1, 6]


def test_a_permutation_has_every_number_once() -> None:
    assert sorted(GoRandom(7).permutation(50)) == list(range(50))
    with pytest.raises(ValueError, match="positive"):
        GoRandom(7).intn(0)


def test_pods_are_added_until_the_target_is_reached() -> None:
    pods = [HALF] * 4 + [WHOLE] * 2 + [CPU_ONLY]
    drawn = draw(pods, nodes=3, gpu_milli=10_000, tune=1.3, seed=42)
    demand = sum(pod.total_gpu_milli for pod in drawn.pods)
    assert 13_000 - WHOLE.gpu_milli < demand <= 13_000
    assert sorted(drawn.node_order) == [0, 1, 2]


def test_pods_are_taken_out_when_the_list_asks_for_more() -> None:
    pods = [FOUR] * 10
    drawn = draw(pods, nodes=2, gpu_milli=20_000, tune=1.0, seed=42)
    assert sum(pod.total_gpu_milli for pod in drawn.pods) == 20_000


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    pods = [HALF, WHOLE, CPU_ONLY] * 20
    first, again, other = (draw(pods, nodes=9, gpu_milli=40_000, tune=1.2, seed=s) for s in (5, 5, 6))
    assert first == again
    assert first != other
