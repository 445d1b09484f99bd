"""The table of simulated NVML symbols, and how a symbol finds the object behind a handle."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from tessera.gpu.simulator.memory import Kind, read_handle
from tessera.gpu.simulator.state import Compute, Instance, Node, SimulatedGPU

if TYPE_CHECKING:
    from tessera.gpu.simulator.event_symbols import EventSet
    from tessera.gpu.simulator.gpm_symbols import Sample
    from tessera.gpu.simulator.meters import MeterFile


class Missing(Exception):
    """The handle's object does not exist (any more)."""


class Lost(Exception):
    """The GPU fell off the bus."""


class Library(Protocol):
    """What a symbol may use."""

    references: int
    event_sets: dict[int, EventSet]
    gpm_samples: dict[int, Sample | None]
    meters: MeterFile

    def read(self) -> Node:
        """The state, not to be changed."""

    def change(self) -> AbstractContextManager[Node]:
        """The state for one change."""


Symbol = Callable[..., Any]
symbols: dict[str, Symbol] = {}


def symbol(function: Symbol) -> Symbol:
    """Register a function under its own name, which is the C symbol's."""
    symbols[function.__name__] = function
    return function


def find_gpu(node: Node, argument: Any) -> SimulatedGPU:
    """The physical GPU behind a device handle; a MIG device's handle is not one."""
    kind, serial = read_handle(argument)
    for gpu in node.gpus:
        if kind == Kind.GPU and gpu.serial == serial:
            if gpu.lost:
                raise Lost
            return gpu
    raise Missing


def find_instance(node: Node, argument: Any) -> tuple[SimulatedGPU, Instance]:
    """The GPU instance behind its handle."""
    kind, serial = read_handle(argument)
    for gpu in node.gpus:
        for instance in gpu.instances:
            if kind == Kind.INSTANCE and instance.serial == serial:
                if gpu.lost:
                    raise Lost
                return gpu, instance
    raise Missing


def find_compute(
    node: Node, argument: Any, kind: Kind = Kind.COMPUTE
) -> tuple[SimulatedGPU, Instance, Compute]:
    """The compute instance behind its handle, or behind its MIG device's handle."""
    found, serial = read_handle(argument)
    for gpu in node.gpus:
        for instance in gpu.instances:
            for compute in instance.compute:
                if found == kind and compute.serial == serial:
                    if gpu.lost:
                        raise Lost
                    return gpu, instance, compute
    raise Missing


def is_mig_device(argument: Any) -> bool:
    """Whether a device handle is a MIG device's."""
    return read_handle(argument)[0] == Kind.MIG_DEVICE
