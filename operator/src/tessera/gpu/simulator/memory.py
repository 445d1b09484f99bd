"""The C calling convention, as far as a Python object must play a C library for `ctypes` callers.

Out-parameters arrive as `byref(x)`, as arrays or as pointers; handles are opaque pointers. A simulated
handle's address is `serial * 16 + kind`: the serial is never reused, so the handle of a destroyed object
stays invalid for ever, in every process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from tessera.gpu.simulator.rules import INSUFFICIENT_SIZE, SUCCESS


class Kind(IntEnum):
    """What a handle points to."""

    GPU = 1
    INSTANCE = 2
    COMPUTE = 3
    MIG_DEVICE = 4
    EVENT_SET = 5
    GPM_SAMPLE = 6


def handle(kind: Kind, serial: int) -> int:
    """The address that stands for that object."""
    return serial * 16 + kind


def read_handle(argument: Any) -> tuple[int, int]:
    """(kind, serial) of a handle given by a caller; (0, 0) for a null pointer."""
    address = ctypes.cast(argument, ctypes.c_void_p).value or 0
    return address % 16, address // 16


def number(argument: Any) -> int:
    """An integer argument, given as int or as a ctypes integer."""
    return int(argument.value if hasattr(argument, "value") else argument)


def text(argument: Any) -> str:
    """A `char *` argument."""
    raw = argument.value if hasattr(argument, "value") else argument
    return raw.decode() if isinstance(raw, bytes) else str(raw)


def target(reference: Any) -> Any:
    """The object behind `byref(x)`; the argument itself when it is not a reference."""
    return getattr(reference, "_obj", reference)


def is_null(reference: Any) -> bool:
    """Whether the caller passed NULL."""
    return reference is None or (hasattr(reference, "_type_") and not bool(reference))


def put(reference: Any, value: int) -> None:
    """Write an integer through `unsigned int *`."""
    target(reference).value = value


def put_handle(reference: Any, address: int) -> None:
    """Write a handle through `nvmlDevice_t *` and the like."""
    ctypes.c_void_p.from_address(ctypes.addressof(target(reference))).value = address


def put_text(buffer: Any, value: str) -> None:
    """Write a string into a `char` buffer."""
    target(buffer).value = value.encode()


def put_handles(array: Any, addresses: list[int]) -> None:
    """Write handles into an array of opaque pointers."""
    base = ctypes.addressof(target(array))
    for position, address in enumerate(addresses):
        ctypes.c_void_p.from_address(base + position * ctypes.sizeof(ctypes.c_void_p)).value = address


def put_placements(placements: Any, count: Any, *, starts: Sequence[int], size: int) -> int:
    """Answer a question for possible placements: their number, and themselves where the caller has room.

    Returns SUCCESS, or INSUFFICIENT_SIZE where the array is too short.
    """
    room = number(target(count))
    put(count, len(starts))
    if is_null(placements):
        return SUCCESS
    if room < len(starts):
        return INSUFFICIENT_SIZE
    for position, start in enumerate(starts):
        entry = target(placements)[position]
        entry.start = start
        entry.size = size
    return SUCCESS


def put_struct(reference: Any, **fields: int | bytes) -> None:
    """Write fields of a struct by name; fields that this struct version lacks are left out."""
    struct = target(reference)
    for name, value in fields.items():
        if hasattr(struct, name):
            setattr(struct, name, value)


def field(struct: Any, name: str) -> Any:
    """A pointer field of a struct, to be written like a variable of its own."""
    return ctypes.c_void_p.from_buffer(struct, getattr(type(struct), name).offset)
