"""Where the work runs, decided from what the node agent put into the container.

The agent injects `TESSERA_SLICE_PROFILE`, `TESSERA_SLICE_UUID`, `TESSERA_SLICE_MEMORY_BYTES` and, on the
simulator, `TESSERA_SIMULATED=1` (docs/architecture.md). A simulated slice has no silicon: the work then
trains on the CPU and says so. A real slice that torch cannot see is an error, because a job that quietly
trains on the CPU while it holds a GPU slice is the most expensive way to be slow.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from tessera_workloads.errors import InvalidParameter, SliceUnusable

DeviceChoice = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Slice:
    """The GPU slice of this container, as its environment tells it."""

    profile: str
    uuid: str
    memory_bytes: int | None
    simulated: bool


@dataclass(frozen=True)
class Place:
    """The chosen device, the slice that it belongs to (if any), and one sentence for the log."""

    device: torch.device
    slice: Slice | None
    sentence: str


def read_slice(environ: Mapping[str, str]) -> Slice | None:
    """The slice that the agent injected, or None outside of a Tessera container."""
    profile, uuid = environ.get("TESSERA_SLICE_PROFILE", ""), environ.get("TESSERA_SLICE_UUID", "")
    if not (profile or uuid):
        return None
    memory = environ.get("TESSERA_SLICE_MEMORY_BYTES", "")
    return Slice(
        profile=profile or "unknown profile",
        uuid=uuid,
        memory_bytes=int(memory) if memory.isdecimal() else None,
        simulated=environ.get("TESSERA_SIMULATED") == "1",
    )


def choose_place(environ: Mapping[str, str], *, choice: DeviceChoice, cuda_available: bool) -> Place:
    """Pick the device.

    Raises:
        SliceUnusable: a real slice is here but torch sees no CUDA device, and the CPU was not asked for.
        InvalidParameter: `cuda` was asked for where there is none.
    """
    held = read_slice(environ)
    if held is not None and held.simulated and choice != "cuda":
        return Place(
            device=torch.device("cpu"),
            slice=held,
            sentence=f"slice {held.profile} is simulated: training on the CPU inside it",
        )
    if choice == "cpu" or (choice == "auto" and held is None and not cuda_available):
        return Place(device=torch.device("cpu"), slice=held, sentence="training on the CPU")
    if cuda_available:
        where = f"slice {held.profile}" if held else "the GPU"
        return Place(device=torch.device("cuda"), slice=held, sentence=f"training on {where}")
    if held is not None and not held.simulated:
        raise SliceUnusable(
            f"this container holds slice {held.profile} ({held.uuid}) but torch sees no CUDA device: use an "
            "image whose torch matches the node's driver, or --device cpu to train on the CPU on purpose"
        )
    raise InvalidParameter("--device cuda: torch sees no CUDA device here; use --device auto")
