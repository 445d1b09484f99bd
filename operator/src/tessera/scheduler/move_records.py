"""What is written down of a move, so that any replica can go on with it after a kill -9 at any call.

Room for a waiting claim is made in steps, and each step is one write:

1. A *placeholder*, a ResourceClaim of the scheduler's own, takes the place to which a victim is to go. Its
   annotation (`MoveRecord`) says whose replacement it is held for: the same Job, completion index and claim.
2. The waiting claim gets an annotation (`RoomRecord`): the place that is opened for it, and who leaves it.
3. When both are seen, the victims are evicted. Their Job makes replacements; each takes the place of its
   placeholder, and the waiting claim takes its room.

Where nobody waits (a compaction), there is no room, and each placeholder names all pods that leave with its
victim (`CompactionRecord`).

All are JSON. Only the scheduler writes them; what cannot be read counts as not there, and what a record asks
for is judged again by the rules of the moment before anybody is evicted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

from tessera.scheduler.objects import Claim

MOVED = "moved"
"""The replacement got the place that was held for it."""
ELSEWHERE = "elsewhere"
"""The replacement was placed, but not there."""
REFUSED = "refused"
"""The victim could not be evicted in time: a PodDisruptionBudget did not allow it."""
NO_REPLACEMENT = "no_replacement"
"""The victim left, and nothing came in its place in time."""
ABANDONED = "abandoned"
"""Given up before the victim left, because the room was not needed any more or a record was missing."""
PREEMPTED = "preempted"
"""Evicted for a pod of higher priority; nothing is held for it."""

ROOM = "room"
"""A move for a pod that waits."""
COMPACTION = "compaction"
"""A move for which nobody waits: its GPU becomes empty."""

CLOCK_SKEW_SECONDS = 60.0
"""By which the clocks of two replicas may differ: what a leader wrote whose clock was ahead still counts."""

Record = TypeVar("Record")

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What text can raise that is no record: numbers beyond a float and endless nesting too."""


class PodRef(NamedTuple):
    """One pod in one life."""

    namespace: str
    name: str
    uid: str


class RoomVictim(NamedTuple):
    """A pod that is to leave a room. `preempted`: it goes back to the queue, no place is held for it."""

    namespace: str
    name: str
    uid: str
    preempted: bool = False


@dataclass(frozen=True, slots=True)
class CompactionRecord:
    """Of each placeholder of one compaction: all pods that are to leave, and until when (seconds since the
    epoch) they are asked to.
    """

    victims: tuple[RoomVictim, ...]
    evict_until: float


@dataclass(frozen=True, slots=True)
class MoveRecord:
    """Of a placeholder: whose replacement it is held for. `deadline` is in seconds since the epoch; then it
    is given up. `waiting_claim_uid` is the claim for which room is made, or "" in a `compaction`. `job_name`
    is "" and `requests` (what the pod asks of its node) are empty in records that were written before they
    were part of them.
    """

    job_uid: str
    completion_index: str
    pod_claim_name: str
    victim_pod: PodRef
    waiting_claim_uid: str
    deadline: float
    job_name: str = ""
    requests: tuple[tuple[str, Fraction], ...] = ()
    compaction: CompactionRecord | None = None

    @property
    def identity(self) -> tuple[str, str, str]:
        """Who the victim is across replacements."""
        return self.job_uid, self.completion_index, self.pod_claim_name


@dataclass(frozen=True, slots=True)
class RoomRecord:
    """Of a waiting claim: the device that is opened for it. Times are seconds since the epoch: after
    `evict_until` no victim is asked to leave any more, after `deadline` the room is given up.
    """

    pool: str
    device: str
    victims: tuple[RoomVictim, ...]
    evict_until: float
    deadline: float


def placeholder_name(*, waiting_claim_uid: str, victim_pod_uid: str) -> str:
    """The name of the placeholder for this victim, of this waiting claim ("": of none): always the same."""
    return f"move-{waiting_claim_uid[:8] or 'compaction'}-{victim_pod_uid[:8]}"


def is_placeholder(claim: Claim, namespace: str) -> bool:
    """Whether the claim is a placeholder of the scheduler in this namespace; elsewhere the annotation means
    nothing, because users may write there.
    """
    return bool(claim.move) and claim.key[0] == namespace and read_move(claim.move) is not None


def write_move(record: MoveRecord) -> str:
    """The record as an annotation."""
    return _json(
        {
            "job": record.job_uid,
            "jobName": record.job_name,
            "requests": {name: str(amount) for name, amount in record.requests},
            "index": record.completion_index,
            "podClaim": record.pod_claim_name,
            "victim": _pod(record.victim_pod),
            "waitingClaim": record.waiting_claim_uid,
            "deadline": round(record.deadline, 3),
            **({} if record.compaction is None else {"compaction": _compaction(record.compaction)}),
        }
    )


def write_room(record: RoomRecord) -> str:
    """The record as an annotation."""
    return _json(
        {
            "pool": record.pool,
            "device": record.device,
            "victims": _victims(record.victims),
            "evictUntil": round(record.evict_until, 3),
            "deadline": round(record.deadline, 3),
        }
    )


@lru_cache(maxsize=4096)
def read_move(text: str) -> MoveRecord | None:
    """The record of an annotation; None when it is none."""
    return _read(
        text,
        lambda read: MoveRecord(
            job_uid=str(read["job"]),
            completion_index=str(read["index"]),
            pod_claim_name=str(read["podClaim"]),
            victim_pod=PodRef(*_strings(read["victim"])),
            waiting_claim_uid=str(read["waitingClaim"]),
            deadline=_seconds(read["deadline"]),
            job_name=str(read.get("jobName", "")),
            requests=tuple(
                (str(name), Fraction(amount)) for name, amount in read.get("requests", {}).items()
            ),
            compaction=_read_compaction(read["compaction"]) if "compaction" in read else None,
        ),
    )


@lru_cache(maxsize=4096)
def read_room(text: str) -> RoomRecord | None:
    """The record of an annotation; None when it is none."""
    return _read(
        text,
        lambda read: RoomRecord(
            pool=str(read["pool"]),
            device=str(read["device"]),
            victims=_read_victims(read["victims"]),
            evict_until=_seconds(read["evictUntil"]),
            deadline=_seconds(read["deadline"]),
        ),
    )


def _read(text: str, record_of: Callable[[Any], Record]) -> Record | None:
    try:
        return record_of(json.loads(text))
    except UNREADABLE:
        return None


def _compaction(record: CompactionRecord) -> dict[str, Any]:
    return {"victims": _victims(record.victims), "evictUntil": round(record.evict_until, 3)}


def _read_compaction(read: dict[str, Any]) -> CompactionRecord:
    return CompactionRecord(_read_victims(read["victims"]), _seconds(read["evictUntil"]))


def _victims(victims: tuple[RoomVictim, ...]) -> list[dict[str, Any]]:
    return [{**_pod(victim), "preempted": victim.preempted} for victim in victims]


def _read_victims(read: list[dict[str, Any]]) -> tuple[RoomVictim, ...]:
    return tuple(RoomVictim(*_strings(victim), victim["preempted"] is True) for victim in read)


def _pod(pod: PodRef | RoomVictim) -> dict[str, Any]:
    return {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid}


def _strings(pod: dict[str, Any]) -> tuple[str, str, str]:
    return str(pod["namespace"]), str(pod["name"]), str(pod["uid"])


def _seconds(value: object) -> float:
    """Raises ValueError unless it is a finite number: what cannot be compared would never be over."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no time")
    return float(value)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
