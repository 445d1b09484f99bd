"""What is kept for pods that have waited too long, so that smaller ones do not take all that becomes free.

From the age limit of the queue on, the oldest pod of each profile has, on one model of GPU, a place reserved:
what runs there runs to its end, or is moved, and nobody who is served later is placed there. Which place it
is says `placement.reservation`, from when pods are expected to end: at the latest `activeDeadlineSeconds`
after their start; within ten minutes where they may be moved; never where they are always restarted; else
nobody knows. A pod of higher priority is served before, and may still be placed there.

A reservation is closed in the books at its pod's turn, when that has been refused, and the books are opened
again at the end of the round. In memory is only which place was chosen, so that it is not searched for in
each round. Another leader chooses anew, and what has become free by then speaks for the same place.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

from tessera.placement.geometry import Geometry
from tessera.placement.gpu_sets import numbers, union_bits
from tessera.placement.queue_order import QueueOrder
from tessera.placement.request import Feasible, Offer, Request
from tessera.placement.reservation import choose_reservation
from tessera.scheduler.barred import Only
from tessera.scheduler.index import Index
from tessera.scheduler.moving.beginnings import asks_for_one_slice
from tessera.scheduler.moving.ration import LEFT_ALONE_SECONDS
from tessera.scheduler.moving.steps import Moving
from tessera.scheduler.moving.under_way import partition_of
from tessera.scheduler.moving.victims import candidate, claim_of_holder, grace_seconds
from tessera.scheduler.objects import Claim, Pod, read_time
from tessera.scheduler.placing import Placing
from tessera.scheduler.units import Unit
from tessera.scheduler.wanted import Wanted

CHOOSE_AGAIN_SECONDS = 30.0
"""So often it is looked whether another place will be free sooner."""
MOST_LOOKED_AT = 256
"""GPUs that are compared for one reservation: those on which fewest instances are in the way."""


@dataclass(frozen=True, slots=True)
class _Held:
    claim: Claim
    pool: str
    device: str
    chosen_at: float


class Reservations:
    """The reserved places, round after round, for pods that are aged by the order of the queue."""

    def __init__(self, order: QueueOrder) -> None:
        self.changes = 0
        """Grows whenever a place is not reserved any more, so that others may have it."""
        self._order = order
        self._held: dict[str, _Held] = {}
        """By the UID of the pod."""
        self._kept_before: set[tuple[str, str]] = set()
        self._kept: set[tuple[str, str]] = set()
        self._profiles: set[tuple[str, str]] = set()
        """(Profile, model) of the places that are kept in this round."""

    def keep(self, unit: Unit, placing: Placing, moving: Moving, index: Index) -> str:
        """At its turn a unit was refused for lack of room. What is kept for it from now on, in words; "" when
        it is nothing.
        """
        pod, now = unit.pods[0], placing.snapshot.now
        if not self._order.aged(unit.waiting(0), now=now):
            return ""
        wanted = placing.wanted(pod)
        if not asks_for_one_slice(wanted):
            return ""
        held = self._held.pop(pod.uid, None)
        if (
            held is None
            or now - held.chosen_at >= CHOOSE_AGAIN_SECONDS
            or not self._may_stay(held, placing, moving)
        ):
            held = self._choose(wanted, placing, moving, index)
        if held is None:
            return ""
        self._held[pod.uid] = held
        return self._close(held, pod, placing, moving)

    def keep_on(self, unit: Unit, placing: Placing, moving: Moving) -> None:
        """At its turn a unit was not tried. What was kept for it before is kept in this round too."""
        pod = unit.pods[0]
        held = self._held.get(pod.uid)
        if held is not None and self._may_stay(held, placing, moving) and moving.room_of(pod) is None:
            self._close(held, pod, placing, moving)

    def forget(self, uids: Iterable[str]) -> None:
        """Pods that have their slices, or are gone."""
        for uid in uids:
            self._held.pop(uid, None)

    def end(self) -> None:
        """The round is over."""
        self.changes += bool(self._kept_before - self._kept)
        self._kept_before, self._kept = self._kept, set()
        self._profiles.clear()

    def _may_stay(self, held: _Held, placing: Placing, moving: Moving) -> bool:
        """Whether it is published, and nobody served before in this round has its GPU or one of the same
        kind.
        """
        place = placing.place_of(held.pool, held.device)
        return (
            place is not None
            and not moving.busy >> place.gpu & 1
            and self._kind(place, placing) not in self._profiles
        )

    def _kind(self, place: Only, placing: Placing) -> tuple[str, str]:
        geometry = placing.state.gpus[place.gpu].geometry
        return geometry.placements[place.index].profile, geometry.model

    def _close(self, held: _Held, pod: Pod, placing: Placing, moving: Moving) -> str:
        place = placing.place_of(held.pool, held.device)
        assert place is not None
        gpu = placing.state.gpus[place.gpu]
        in_the_way = sum(gpu.geometry.overlap(index, place.index) for index in gpu.held.values())
        moving.reserve(held.claim, place, pod)
        self._kept.add((held.pool, held.device))
        self._profiles.add(self._kind(place, placing))
        slices = f"{in_the_way} slice{'s' if in_the_way != 1 else ''}"
        return f"{held.device} on node {gpu.node} is kept for it, where {slices} must still become free"

    def _choose(self, wanted: Wanted, placing: Placing, moving: Moving, index: Index) -> _Held | None:
        request = self._unreserved(wanted.requests[0])
        (request,), _ = placing.reserves.respect([request])
        reach = placing.feasible(wanted).gpus & ~moving.busy
        now = placing.snapshot.now
        found = choose_reservation(
            placing.state,
            request,
            expected_end=lambda owner: expected_end(owner, placing, index),
            now=now,
            feasible=Feasible(_least_blocked(request, reach, placing)),
            mean_seconds=self._order.unknown_seconds,
        )
        return (
            None if found is None else _Held(wanted.todo[0], *placing.device_at(found.gpu, found.index), now)
        )

    def _unreserved(self, request: Request) -> Request:
        """The request for one slice without what is kept already for somebody before."""

        def part(offer: Offer) -> Offer:
            model, legal = offer.geometry.model, offer.geometry.placements
            open_ = tuple(i for i in offer.placements if (legal[i].profile, model) not in self._profiles)
            return replace(offer, placements=open_)

        return replace(
            request,
            alternatives=tuple(
                replace(a, offers=tuple(one for offer in a.offers if (one := part(offer)).placements))
                for a in request.alternatives
                if a.count == 1
            ),
        )


def _least_blocked(request: Request, reach: int, placing: Placing) -> int:
    """Those of the GPUs in reach on which fewest instances are in the way of a slice, as a bit set."""
    state = placing.state
    buckets: list[tuple[int, int]] = []
    for offer in (o for a in request.alternatives for o in a.offers):
        within = reach & offer.gpus_in(state)
        for layout, bucket in state.layouts(offer.geometry):
            gpus = union_bits((bucket,)) & within
            if gpus:
                held = state.pools[offer.geometry].table.indices[layout]
                buckets.append((_fewest(offer.geometry, held, offer.placements), gpus))
    chosen = 0
    for _, gpus in sorted(buckets):
        for number in numbers(gpus & ~chosen):
            if chosen.bit_count() == MOST_LOOKED_AT:
                return chosen
            chosen |= 1 << number
    return chosen


def _fewest(geometry: Geometry, held: tuple[int, ...], placements: tuple[int, ...]) -> int:
    return min(sum(geometry.overlap(one, index) for one in held) for index in placements)


def expected_end(owner: Hashable, placing: Placing, index: Index) -> float | None:
    """When who holds a slice is expected to give it back, in seconds since the epoch; None: nobody knows,
    infinity: not by itself.
    """
    snapshot = placing.snapshot
    claim = claim_of_holder(owner, snapshot)
    held = placing.state.holds(owner)
    if claim is None or held is None:
        return math.inf
    may_move = bool(partition_of(held[0].number, placing))
    users = (snapshot.pods[key] for key in index.users(claim.key))
    ends = [_end_of(pod, claim, placing, may_move) for pod in users if pod.uid in claim.reserved_for]
    if None in ends and math.inf not in ends:
        return None
    return max((end for end in ends if end is not None), default=snapshot.now)


def _end_of(pod: Pod, claim: Claim, placing: Placing, may_move: bool) -> float | None:
    snapshot = placing.snapshot
    now = snapshot.now
    if pod.deleting:
        return now + grace_seconds(pod)
    ends = []
    if may_move and candidate(pod, snapshot) is not None:
        ends.append(now + LEFT_ALONE_SECONDS)
    if pod.longest_run_seconds is not None:
        started = read_time((pod.raw.get("status") or {}).get("startTime"))
        since = started or (now if claim.allocated is None else claim.allocated.since)
        ends.append(max(now, since + pod.longest_run_seconds))
    if pod.raw["spec"].get("restartPolicy", "Always") == "Always":
        ends.append(math.inf)
    return min(ends, default=None)
