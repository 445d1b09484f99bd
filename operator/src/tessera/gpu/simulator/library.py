"""The simulated `libnvidia-ml.so.1`: an object whose attributes are NVML's C symbols.

`pynvml` looks functions up by name on its library object. Here `__getattr__` finds the symbol in the
registry and wraps it: refuse before init and without permission, inject faults, refuse lost GPUs; an
unknown symbol raises AttributeError, which pynvml reports as FUNCTION_NOT_FOUND, as with an old driver.
Symbols themselves are plain functions in the `*_symbols` modules, registered by `@symbol`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tessera.gpu.simulator import (
    board_symbols,
    compute_symbols,
    device_symbols,
    event_symbols,
    gpm_symbols,
    instance_symbols,
    power_symbols,
    privileges,
    usage_symbols,
)
from tessera.gpu.simulator.faults import FaultInjector
from tessera.gpu.simulator.latency import Latency
from tessera.gpu.simulator.memory import text
from tessera.gpu.simulator.meters import MeterFile
from tessera.gpu.simulator.registry import Lost, Missing, Symbol, symbols
from tessera.gpu.simulator.rules import GPU_IS_LOST, INVALID_ARGUMENT
from tessera.gpu.simulator.state import Node, StateFile

UNINITIALIZED = 1
NO_PERMISSION = 4
_ALWAYS = {"nvmlInitWithFlags", "nvmlInit_v2", "nvmlErrorString"}

__all__ = [
    "SimulatedLibrary",
    "board_symbols",
    "compute_symbols",
    "device_symbols",
    "event_symbols",
    "gpm_symbols",
    "instance_symbols",
    "power_symbols",
    "usage_symbols",
]


def _walked(node: Node, uuid: Any) -> int:
    """How many MIG devices a look-up of that UUID walks over: none for a GPU's own."""
    if not text(uuid).startswith("MIG-"):
        return 0
    return sum(len(instance.compute) for gpu in node.gpus for instance in gpu.instances)


class _Function:
    """A C function as pynvml sees it; `restype` may be assigned, as on a ctypes function."""

    restype: object = None

    def __init__(self, library: SimulatedLibrary, name: str, body: Symbol) -> None:
        self._library = library
        self._name = name
        self._body = body

    def __call__(self, *arguments: Any) -> Any:
        library = self._library
        if self._name == "nvmlErrorString":
            return self._body(library, *arguments)
        if not library.references and self._name not in _ALWAYS:
            return UNINITIALIZED
        if library.privilege < privileges.required(self._name):
            return NO_PERMISSION
        return library.faults.around(self._name, lambda: self._guarded(arguments))

    def _guarded(self, arguments: tuple[Any, ...]) -> int:
        library = self._library
        library.latency.spend(self._name, mig_devices=lambda: _walked(library.read(), arguments[0]))
        try:
            return int(self._body(library, *arguments))
        except Lost:
            return GPU_IS_LOST
        except Missing:  # a handle whose object is gone
            return INVALID_ARGUMENT


class SimulatedLibrary:
    """One process's view of the simulated node."""

    def __init__(self, state: StateFile) -> None:
        self._state = state
        self.faults = FaultInjector(state.directory)
        self.latency = Latency(state.directory)
        self.meters = MeterFile(state.directory)
        self.privilege = privileges.from_environment()
        self.references = 0
        self.event_sets: dict[int, event_symbols.EventSet] = {}
        self.gpm_samples: dict[int, gpm_symbols.Sample | None] = {}

    @classmethod
    def at(cls, directory: Path, *, model: str, count: int, seed: str) -> SimulatedLibrary:
        """The node whose state is in that directory; made on first use. Raises `UnknownModel`."""
        state = StateFile(directory)
        state.ensure(model=model, count=count, seed=seed)
        return cls(state)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        body = symbols.get(name)
        if body is None:
            raise AttributeError(f"the simulated driver has no symbol {name}")
        return _Function(self, name, body)

    def read(self) -> Node:
        """The node's state, not to be changed."""
        return self._state.read()

    @contextmanager
    def change(self) -> Iterator[Node]:
        """The node's state for one change."""
        with self._state.change() as node:
            yield node
