"""The one annotation that the scheduler keeps on its own Lease: who has left in the last hour (`departures`).

The Lease is the one object that only the leader writes, and that every leader reads and may update anyway. A
write carries the version that was read before the Lease was found to be ours, so that a leader that slept
through its term cannot write. What could not be written is tried again before the next round.
"""

from __future__ import annotations

import logging

from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.errors import ApiError, Conflict, NotFound, Unreachable
from tessera.kube.resources import LEASES
from tessera.scheduler.pen import Pen

_log = logging.getLogger(__name__)

_TRIES = 3
"""The Lease is renewed every two seconds, so that two of our own writes may meet."""


class LeaseNotes:
    """Writes the annotation, with the scheduler's pen."""

    def __init__(self, pen: Pen, *, namespace: str) -> None:
        self._pen = pen
        self._namespace = namespace
        self._unwritten: str | None = None

    async def note(self, text: str) -> None:
        """Write it now, or before a later round. Raises LeadershipLost."""
        self._unwritten = text
        await self.settle()

    async def settle(self) -> None:
        """Write what could not be written before. Raises LeadershipLost."""
        if self._unwritten is None:
            return
        try:
            await self._write(self._unwritten)
        except NotFound:
            _log.warning("the Lease is gone, and with it who has left in this hour")
        except (ApiError, Unreachable, TimeoutError) as error:
            _log.info("who has left in this hour will be written again: %s", error)
            return
        self._unwritten = None

    async def _write(self, text: str) -> None:
        for left in reversed(range(_TRIES)):
            lease = await self._pen.client.get(LEASES, names.SCHEDULER_LEASE, self._namespace)
            await self._pen.check_lease(now=True)
            annotations = {**(lease["metadata"].get("annotations") or {}), names.DEPARTURES_ANNOTATION: text}
            metadata = {**lease["metadata"], "annotations": annotations}
            try:
                await self._pen.client.replace(LEASES, lease | {"metadata": metadata})
            except Conflict:
                if not left:
                    raise
            else:
                return


async def read_note(client: KubeClient, *, namespace: str) -> str:
    """What is written on the Lease; "" when nothing is. Raises ApiError and Unreachable."""
    try:
        lease = await client.get(LEASES, names.SCHEDULER_LEASE, namespace)
    except NotFound:
        return ""
    return note_of(lease)


def note_of(lease: dict[str, object]) -> str:
    """The annotation of a Lease, or ""."""
    metadata = lease.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return str((annotations or {}).get(names.DEPARTURES_ANNOTATION, ""))
