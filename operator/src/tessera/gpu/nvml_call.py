"""One call of `pynvml`, with its error as an `NVMLFault`; and the GPUs that answer one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pynvml

from tessera.gpu.faults import GPU_IS_LOST, NVMLFault


def call(function: Callable[..., Any], *arguments: Any, target: str = "") -> Any:
    """The answer. Raises `NVMLFault`; `target` says there what was asked about."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        raise NVMLFault(int(error.value), call=function.__name__, target=target) from None


def text(value: str | bytes) -> str:
    """A string of NVML's, which older bindings give as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def handles() -> Iterator[tuple[int, str, Any]]:
    """Index, UUID and handle of each GPU; one that fell off the bus may have no UUID, and is left out.

    Raises `NVMLFault`.
    """
    for index in range(call(pynvml.nvmlDeviceGetCount)):
        target = f"GPU index {index}"
        try:
            handle = call(pynvml.nvmlDeviceGetHandleByIndex, index, target=target)
            uuid = text(call(pynvml.nvmlDeviceGetUUID, handle, target=target))
        except NVMLFault as fault:
            if fault.code == GPU_IS_LOST:
                continue
            raise
        yield index, uuid, handle
