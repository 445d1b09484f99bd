"""A simulated node behind pynvml, for tests that call NVML directly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pynvml
import pytest
from clock import Clock
from tessera.gpu.simulator.library import SimulatedLibrary
from unit.gpu.mig_calls import create_compute, create_two, uuid_of

Bind = Callable[..., SimulatedLibrary]


@pytest.fixture
def bind(tmp_path: Path) -> Iterator[Bind]:
    """Put a simulated node behind pynvml: `bind("A30-24GB", count=1)`."""

    def put(model: str = "H100-80GB", count: int = 1, seed: str = "test") -> SimulatedLibrary:
        library = SimulatedLibrary.at(tmp_path / "node", model=model, count=count, seed=seed)
        pynvml.nvmlLib = library
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml.nvmlInit()
        return library

    yield put
    pynvml.nvmlLib = None
    pynvml._nvmlGetFunctionPointer_cache.clear()


@pytest.fixture
def node_directory(tmp_path: Path) -> Path:
    """Where `bind` keeps the node's state."""
    return tmp_path / "node"


@pytest.fixture
def gpu(bind: Bind) -> Any:
    """The handle of an H100 with MIG enabled."""
    bind()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceSetMigMode(handle, 1) == 0
    return handle


@pytest.fixture
def clock() -> Clock:
    """The clock of `node`: Unix time."""
    return Clock(time.time())


@pytest.fixture
def node(bind: Bind, clock: Clock) -> SimulatedLibrary:
    """An H100 whose meters stand until a test moves the clock."""
    library = bind()
    library.meters.clock = clock
    return library


@pytest.fixture
def mig_uuid(node: SimulatedLibrary) -> str:
    """The MIG device of a 2g.20gb (2 of 7 compute slices) on that H100."""
    gpu = pynvml.nvmlDeviceGetHandleByIndex(0)
    assert pynvml.nvmlDeviceSetMigMode(gpu, 1) == 0
    return uuid_of(create_compute(create_two(gpu)))
