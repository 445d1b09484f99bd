"""NVML symbols about events: what the driver reports by itself, of which Xid errors matter here.

A caller makes an event set, registers GPUs with it and waits. Events before the registration are not
delivered; each later one is, once, in order. An Xid of one MIG device carries its GPU and compute instance
ids; one of the whole GPU carries 0xFFFFFFFF for both. Event sets belong to the process.
"""

from __future__ import annotations

import ctypes
import time
from dataclasses import dataclass, field
from typing import Any

import pynvml

from tessera.gpu.simulator.memory import Kind, handle, number, put, put_handle, read_handle, target
from tessera.gpu.simulator.memory import field as pointer
from tessera.gpu.simulator.registry import Library, Lost, Missing, find_gpu, symbol
from tessera.gpu.simulator.rules import NOT_SUPPORTED, SUCCESS
from tessera.gpu.simulator.state import Event, Node

TIMEOUT = 10
XID = pynvml.nvmlEventTypeXidCriticalError
_WHOLE_GPU = 0xFFFFFFFF
_LOOK_SECONDS = 0.05


@dataclass(slots=True)
class EventSet:
    """GPU serial -> number of the last event that this set has seen of it."""

    seen: dict[int, int] = field(default_factory=dict)


def _set(library: Library, argument: Any) -> EventSet:
    kind, serial = read_handle(argument)
    if kind != Kind.EVENT_SET or serial not in library.event_sets:
        raise Missing
    return library.event_sets[serial]


@symbol
def nvmlEventSetCreate(library: Library, event_set: Any) -> int:
    serial = max(library.event_sets, default=0) + 1
    library.event_sets[serial] = EventSet()
    put_handle(event_set, handle(Kind.EVENT_SET, serial))
    return SUCCESS


@symbol
def nvmlEventSetFree(library: Library, event_set: Any) -> int:
    _set(library, event_set)
    del library.event_sets[read_handle(event_set)[1]]
    return SUCCESS


@symbol
def nvmlDeviceGetSupportedEventTypes(library: Library, device: Any, types: Any) -> int:
    find_gpu(library.read(), device)
    put(types, XID)
    return SUCCESS


@symbol
def nvmlDeviceRegisterEvents(library: Library, device: Any, types: Any, event_set: Any) -> int:
    node = library.read()
    gpu = find_gpu(node, device)
    chosen = _set(library, event_set)
    if number(types) & ~XID:
        return NOT_SUPPORTED
    if number(types):
        chosen.seen[gpu.serial] = max((event.number for event in node.events), default=0)
    return SUCCESS


@symbol
def nvmlEventSetWait_v2(library: Library, event_set: Any, data: Any, timeout_ms: Any) -> int:
    chosen = _set(library, event_set)
    end = time.monotonic() + number(timeout_ms) / 1000
    while True:
        node = library.read()
        event = _next(node, chosen)
        if event is not None:
            chosen.seen[event.gpu] = event.number
            _put_event(target(data), event)
            return SUCCESS
        if any(gpu.lost for gpu in node.gpus if gpu.serial in chosen.seen):
            raise Lost
        left = end - time.monotonic()
        if left <= 0:
            return TIMEOUT
        time.sleep(min(left, _LOOK_SECONDS))


def _next(node: Node, chosen: EventSet) -> Event | None:
    """The oldest event of a registered GPU that this set has not seen."""
    return next(
        (
            event
            for event in node.events
            if event.gpu in chosen.seen and event.number > chosen.seen[event.gpu]
        ),
        None,
    )


def _put_event(data: ctypes.Structure, event: Event) -> None:
    put_handle(pointer(data, "device"), handle(Kind.GPU, event.gpu))
    data.eventType = XID
    data.eventData = event.xid
    data.gpuInstanceId = event.gpu_instance & _WHOLE_GPU
    data.computeInstanceId = event.compute_instance & _WHOLE_GPU
