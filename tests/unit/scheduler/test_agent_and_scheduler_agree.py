"""What the agent publishes is what the scheduler reads, and what offline plans work with, for every board of
the profile table.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations

import pytest
from tessera.agent.devices import Owner, slices_for
from tessera.boards import every_profile, geometry_for
from tessera.gpu.driver import GPU
from tessera.gpu.profiles import models
from tessera.scheduler.inventory import PublishedGpu
from tessera.scheduler.published import InventoryReader


def published(name: str, *, mig: bool = True) -> tuple[PublishedGpu, list[dict[str, int]], dict[str, int]]:
    """The GPU as the scheduler reads it, what its devices draw in the order of the geometry, and its
    counters.
    """
    gpu = GPU(
        index=0,
        uuid="GPU-1f3c9a2e-0000-0000-0000-000000000000",
        product=name,
        memory_mib=1,
        architecture="any",
        mig_current=mig,
        mig_pending=mig,
        model=models()[name],
        instances=(),
    )
    slices = slices_for(Owner("node-a", "uid"), [gpu], generation=1)
    for number, obj in enumerate(slices):
        obj["metadata"] |= {"uid": f"slice-{number}", "resourceVersion": "1"}
    (read,) = InventoryReader().read(json.loads(json.dumps(slices))).gpus
    specs = [obj["spec"] for obj in slices]
    draws = {
        d["name"]: {n: int(v["value"]) for n, v in d["consumesCounters"][0]["counters"].items()}
        for spec in specs
        for d in spec.get("devices", [])
    }
    (counters,) = [c for spec in specs for c in spec.get("sharedCounters", [])]
    limits = {n: int(v["value"]) for n, v in counters["counters"].items()}
    return read, [draws[device.name] for device in read.devices], limits


@pytest.mark.parametrize("name", sorted(models()))
def test_every_board_is_read_in_full(name: str) -> None:
    gpu, draws, _ = published(name)
    expected = {(p.profile.name, p.start) for p in models()[name].placements()}
    assert {(p.profile, p.start) for p in gpu.geometry.placements} == expected
    assert len(draws) == len(expected)


@pytest.mark.parametrize("name", sorted(models()))
def test_offline_and_in_the_cluster_a_board_has_the_same_layouts(name: str) -> None:
    read = published(name)[0].geometry
    offline = geometry_for(name, profiles=every_profile(models()[name]))
    legal = offline.placements
    assert [(p.profile, p.start, p.width, p.compute) for p in read.placements] == [
        (p.profile, p.start, p.width, p.compute) for p in legal
    ]
    for one in range(len(legal)):
        key, read_key = offline.with_placed(0, one), read.with_placed(0, one)
        assert offline.occupancy(key).fitting == read.occupancy(read_key).fitting


@pytest.mark.parametrize("name", sorted(models()))
def test_two_placements_fit_together_when_the_counters_allow_both(name: str) -> None:
    gpu, draws, limits = published(name)
    geometry = gpu.geometry
    for one, other in combinations(range(len(draws)), 2):
        used = Counter(draws[one]) + Counter(draws[other])
        allowed = all(amount <= limits[counter] for counter, amount in used.items())
        key = geometry.with_placed(0, one)
        pair = (geometry.placements[one], geometry.placements[other])
        assert geometry.fits(key, other) == allowed, pair


@pytest.mark.parametrize("name", sorted(models()))
def test_full_layouts_respect_every_counter(name: str) -> None:
    """Filling a GPU with one placement first, then with whatever fits, draws no counter beyond its limit."""
    gpu, draws, limits = published(name)
    for first in range(len(draws)):
        key = 0
        used: Counter[str] = Counter()
        chosen: int | None = first
        while chosen is not None:
            key = gpu.geometry.with_placed(key, chosen)
            used += Counter(draws[chosen])
            chosen = next(iter(gpu.geometry.occupancy(key).fitting), None)
        assert all(used[counter] <= limit for counter, limit in limits.items())


def test_a_gpu_that_is_not_cut_is_read_as_one_placement() -> None:
    read, _, _ = published("A100-40GB", mig=False)
    geometry = read.geometry
    assert (geometry.model, geometry.memory_slices, geometry.compute_slices) == ("A100-40GB", 8, 7)
    (legal,) = geometry.placements
    assert (legal.profile, legal.start, legal.width, legal.compute) == ("gpu", 0, 8, 7)
    assert not geometry.occupancy(geometry.with_placed(0, 0)).fitting
