"""What the driver reports by itself: Xid errors, read without waiting for them.

NVML queues events per *event set* from the moment a GPU is registered with it. Each GPU has a set of its own
here, because a lost GPU makes every wait on its set fail, and its neighbours are to be heard all the same. A
set that fails is given up and made anew at the next look at which the GPU answers: after a reset or a reload
of the driver events go on by themselves. A burst is read to its end, up to a limit, and equal events are
counted, so that thousands of them are one answer.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pynvml

from tessera.gpu.driver import Events, Xid
from tessera.gpu.faults import GPU_IS_LOST, NOT_SUPPORTED, TIMEOUT, NVMLFault
from tessera.gpu.nvml_call import call, handles

_MOST_EVENTS = 10_000
"""Of one GPU in one look; what is left is read at the next."""
_NO_INSTANCE = 0xFFFFFFFF
_NO_WAIT_MS = 0

_Key = tuple[str, int, int | None]


class EventSets:
    """One process's event sets, by GPU UUID. They end with NVML's session."""

    def __init__(self) -> None:
        self._sets: dict[str, Any] = {}

    def forget(self) -> None:
        """The session has ended, and the sets with it."""
        self._sets.clear()

    def read(self) -> Events:
        """Everything that was reported since the last look. Raises `NVMLFault` when no GPU can be asked."""
        counts: Counter[_Key] = Counter()
        unheard: dict[str, str] = {}
        for _, uuid, handle in handles():
            try:
                counts.update(self._events(uuid, handle))
            except NVMLFault as fault:
                # A lost GPU is told by the look at the GPUs; a vGPU has no events of its own.
                if fault.code not in (GPU_IS_LOST, NOT_SUPPORTED):
                    unheard[uuid] = str(fault)
        xids = tuple(
            Xid(gpu_uuid=uuid, xid=xid, gpu_instance_id=instance, count=count)
            for (uuid, xid, instance), count in counts.items()
        )
        return Events(xids=xids, unheard=unheard)

    def _events(self, uuid: str, handle: Any) -> Counter[_Key]:
        """One GPU's. Raises `NVMLFault` when nothing could be read before the fault."""
        counts: Counter[_Key] = Counter()
        event_set = self._sets.get(uuid) or self._open(uuid, handle)
        for _ in range(_MOST_EVENTS):
            try:
                event = call(pynvml.nvmlEventSetWait_v2, event_set, _NO_WAIT_MS, target=uuid)
            except NVMLFault as fault:
                if fault.code == TIMEOUT:
                    break
                self._close(uuid)
                if counts:
                    break
                raise
            instance = int(event.gpuInstanceId)
            counts[uuid, int(event.eventData), None if instance == _NO_INSTANCE else instance] += 1
        return counts

    def _open(self, uuid: str, handle: Any) -> Any:
        self._sets[uuid] = call(pynvml.nvmlEventSetCreate, target=uuid)
        try:
            call(
                pynvml.nvmlDeviceRegisterEvents,
                handle,
                pynvml.nvmlEventTypeXidCriticalError,
                self._sets[uuid],
                target=uuid,
            )
        except NVMLFault:
            self._close(uuid)
            raise
        return self._sets[uuid]

    def _close(self, uuid: str) -> None:
        try:
            call(pynvml.nvmlEventSetFree, self._sets.pop(uuid), target=uuid)
        except NVMLFault as fault:
            if fault.code != GPU_IS_LOST:
                raise
