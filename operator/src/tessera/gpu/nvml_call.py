"""One call of `pynvml`, with its error as an `NVMLFault`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from tessera.gpu.faults import NVMLFault


def call(function: Callable[..., Any], *arguments: Any, target: str = "") -> Any:
    """The answer. Raises `NVMLFault`; `target` says there what was asked about."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        raise NVMLFault(int(error.value), call=function.__name__, target=target) from None


def text(value: str | bytes) -> str:
    """A string of NVML's, which older bindings give as bytes."""
    return value.decode() if isinstance(value, bytes) else value
