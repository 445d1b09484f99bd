"""Claims that the ledger holds but the API no longer knows.

As a rule the kubelet releases every claim before it may vanish. A kubelet whose state was wiped, or a node
that was made again under its old name, never asks; its slices would stay taken for ever. So the agent looks
by itself: a prepared claim whose UID the API has not known for a grace time, and on whose instances no
process runs, is released.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tessera.agent.checkpoint import ClaimRecord, Phase
from tessera.agent.claim_reader import ClaimReader
from tessera.agent.claims import PrepareError
from tessera.agent.transactions import Transactions
from tessera.gpu.driver import Driver
from tessera.gpu.faults import NOT_FOUND, NVMLFault
from tessera.kube.errors import ApiError, Unreachable

log = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
_LOOKS_PER_GRACE = 4


class Orphans:
    """Finds one node's orphans and releases them. `clock` counts seconds and never goes back."""

    def __init__(
        self,
        *,
        reader: ClaimReader,
        transactions: Transactions,
        driver: Driver,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._transactions = transactions
        self._driver = driver
        self._clock = clock
        self._gone_since: dict[str, float] = {}
        self._next_look = clock()

    async def release(self) -> tuple[ClaimRecord, ...]:
        """Release what has been an orphan for the grace time; returns it.

        Asks the API at most a few times per grace time. What cannot be known now is asked again later.
        """
        now = self._clock()
        if now < self._next_look:
            return ()
        self._next_look = now + GRACE_SECONDS / _LOOKS_PER_GRACE
        records = [
            record for record in self._transactions.ledger.claims.values() if record.phase is Phase.PREPARED
        ]
        try:
            gone = [record for record in records if not await self._reader.exists(record.key)]
        except (ApiError, Unreachable) as error:
            log.warning("cannot see whether prepared claims still exist: %s", error)
            return ()
        self._gone_since = {record.key.uid: self._gone_since.get(record.key.uid, now) for record in gone}
        return tuple([record for record in gone if await self._released(record, now)])

    async def _released(self, record: ClaimRecord, now: float) -> bool:
        if now - self._gone_since[record.key.uid] < GRACE_SECONDS or await self._runs(record):
            return False
        try:
            await self._transactions.release(record.key.uid)
        except PrepareError as error:
            log.warning("claim %s exists no more but could not be released: %s", record.key, error)
            return False
        log.warning("claim %s exists no more and nobody released it; its slices are free now", record.key)
        return True

    async def _runs(self, record: ClaimRecord) -> bool:
        """Whether a process may run on one of the record's instances."""
        for device in record.devices:
            if device.slice is None:
                continue
            try:
                if await self._driver.processes(device.slice.uuid):
                    return True
            except NVMLFault as fault:
                if fault.code != NOT_FOUND:  # not found: the instance went with a GPU reset
                    log.warning("cannot see who runs on %s: %s", device.slice.uuid, fault)
                    return True
        return False
