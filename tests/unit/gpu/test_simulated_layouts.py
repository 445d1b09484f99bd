"""Which layouts the simulated driver lets happen: all of them counted, and the list of MIG devices."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest
from tessera.gpu.profiles import model
from tessera.gpu.simulator import rules
from tessera.gpu.simulator.state import Instance, SimulatedGPU
from unit.gpu.mig_calls import create, create_compute, uuid_of

Layout = frozenset[tuple[int, int]]
"""(profile id, start) of every GPU instance."""


def gpu_with(board: str, layout: Layout) -> SimulatedGPU:
    table = model(board)
    instances = [
        Instance(number, profile, start, table.profile_by_id(profile).memory_slices, serial=number)
        for number, (profile, start) in enumerate(sorted(layout), start=1)
    ]
    return SimulatedGPU(0, "GPU-x", board, serial=99, mig_current=True, instances=instances)


def reachable(board: str, profiles: set[int]) -> set[Layout]:
    """Every layout that creations lead to from an empty GPU."""
    choices = [
        (profile.id, start, profile.memory_slices)
        for profile in model(board).profiles
        if profile.id in profiles
        for start in profile.starts
    ]
    found: set[Layout] = set()
    waiting: list[Layout] = [frozenset()]
    while waiting:
        layout = waiting.pop()
        gpu = gpu_with(board, layout)
        for profile, start, size in choices:
            if rules.check_create(gpu, profile_id=profile, start=start, size=size) == rules.SUCCESS:
                larger = layout | {(profile, start)}
                if larger not in found:
                    found.add(larger)
                    waiting.append(larger)
    return found


@pytest.mark.parametrize(
    ("board", "profiles", "layouts", "multisets"),
    [
        ("H100-80GB", {19, 14, 9, 5, 0}, 297, 37),
        ("A30-24GB", {14, 5, 0, 21, 6}, 83 - 8, 21 - 2),
    ],
)
def test_exactly_the_legal_layouts_can_be_reached(
    board: str, profiles: set[int], layouts: int, multisets: int
) -> None:
    """The numbers come from an enumeration of its own, over the published tables of placements.

    On an A30 it counts 8 layouts that have both `+me` profiles; they take the board's only JPEG and optical
    flow engines, so the driver refuses the second one.
    """
    found = reachable(board, profiles)
    assert len(found) == layouts
    assert len({tuple(sorted(profile for profile, _ in layout)) for layout in found}) == multisets


def device(gpu: Any, start: int) -> str:
    """The UUID of a new 1g slice."""
    return uuid_of(create_compute(create(gpu, 19, start, 1), enum=0))


def test_a_new_mig_device_fills_the_first_hole_of_the_list(gpu: Any) -> None:
    uuids = [device(gpu, start) for start in (0, 1, 2)]
    instance = pynvml.nvmlDeviceGetGpuInstanceById(
        gpu, pynvml.nvmlDeviceGetGpuInstanceId(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, 1))
    )
    pynvml.nvmlComputeInstanceDestroy(pynvml.nvmlGpuInstanceGetComputeInstanceById(instance, 0))
    new = device(gpu, 6)
    listed = [
        pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)) for index in range(3)
    ]
    assert listed == [uuids[0], new, uuids[2]]
