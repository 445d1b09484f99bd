"""A board that the shipped table does not know: its geometry comes from the driver alone."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest
from tessera.agent.devices import Owner, slices_for
from tessera.gpu import nvml as typed
from tessera.gpu.nvml import NVML
from tessera.gpu.profiles import Board, GPUModel, Profile, boards, models
from tessera.gpu.simulator import instance_symbols
from tessera.gpu.simulator.library import SimulatedLibrary

NAME = "X100-64GB"
PRODUCT = "NVIDIA X100 64GB HBM9"
NEW_ENUM = pynvml.NVML_GPU_INSTANCE_PROFILE_COUNT + 2
"""A profile that the installed binding has no name for."""


def profile(name: str, enum: int, number: int, width: int, starts: tuple[int, ...]) -> Profile:
    return Profile(
        name=name,
        enum=enum,
        id=number,
        compute_slices=int(name[0]),
        memory_slices=width,
        starts=starts,
        max_count=len(starts),
        multiprocessors=12 * width,
        memory_mib=16384 * width,
    )


GEOMETRY = GPUModel.from_profiles(
    NAME,
    [
        profile("1g.16gb", 0, 71, 1, (0, 1, 2, 3)),
        profile("3g.32gb", 2, 55, 2, (0, 2)),
        profile("5g.64gb", NEW_ENUM, 3, 4, (0,)),
    ],
)


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NVML:
    """A driver of such a GPU, for a Tessera whose table has no such PCI id."""
    made = Board(
        model=NAME,
        product=PRODUCT,
        architecture="blackwell",
        compute_capability=(11, 0),
        memory_mib=65536,
        pci_device_ids=(0x7777,),
        power_limit_w=900,
    )
    monkeypatch.setitem(models(), NAME, GEOMETRY)
    monkeypatch.setitem(boards(), NAME, made)
    monkeypatch.setattr(typed, "model_name_by_pci", lambda pci_device_id, product: product)
    monkeypatch.setattr(instance_symbols, "_GPU_PROFILE_COUNT", NEW_ENUM + 1)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    return NVML(SimulatedLibrary.at(tmp_path, model=NAME, count=1, seed="new"))


def test_its_geometry_is_asked_from_the_driver(nvml: NVML) -> None:
    (gpu,) = nvml.inventory().gpus
    assert gpu.model is not None
    assert (gpu.model.name, gpu.fault) == (PRODUCT, "")
    assert (gpu.model.memory_slices, gpu.model.compute_slices) == (4, 5)
    assert [
        (one.name, one.enum, one.id, one.compute_slices, one.memory_slices, one.starts, one.max_count)
        for one in gpu.model.profiles
    ] == [
        (one.name, one.enum, one.id, one.compute_slices, one.memory_slices, one.starts, one.max_count)
        for one in GEOMETRY.profiles
    ]


def test_it_is_published_and_cut_like_any_other(nvml: NVML) -> None:
    (gpu,) = nvml.inventory().gpus
    nvml.set_mig_mode(gpu.uuid, True)
    (gpu,) = nvml.inventory().gpus
    devices = [
        device
        for item in slices_for(Owner("n", "u"), [gpu], generation=1)
        for device in item["spec"].get("devices") or []
    ]
    assert [device["name"].split("-", 2)[2] for device in devices] == [
        *(f"1g-16gb-{start}" for start in range(4)),
        "3g-32gb-0",
        "3g-32gb-2",
        "5g-64gb-0",
    ]
    assert {device["attributes"]["model"]["string"] for device in devices} == {PRODUCT}
    assert gpu.model is not None
    wanted = gpu.model.profile("3g.32gb")
    instance = nvml.create_gpu_instance(gpu.uuid, wanted.id, 2, wanted.memory_slices)
    compute = nvml.create_compute_instance(gpu.uuid, instance)
    (found,) = nvml.instances(gpu.uuid)
    assert (found.profile_id, found.start, found.size) == (wanted.id, 2, 2)
    assert found.compute == (compute,)
