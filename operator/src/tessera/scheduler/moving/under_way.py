"""The moves that are under way, read from the records of a snapshot and judged by the rules of the moment.

Nothing here is remembered. A room is *kept* while its pod still waits, its victims may still leave and the
places for them are held; else it is given up. A compaction goes on while its victims may still leave, the
places for them are held, and its GPU would become empty. A placeholder stays for its victim as long, then for
the replacement, until that has a place or the deadline is over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tessera.scheduler.barred import Only
from tessera.scheduler.index import Index
from tessera.scheduler.move_records import (
    ABANDONED,
    CLOCK_SKEW_SECONDS,
    ELSEWHERE,
    MOVED,
    NO_REPLACEMENT,
    REFUSED,
    CompactionRecord,
    MoveRecord,
    PodRef,
    RoomRecord,
    RoomVictim,
    is_placeholder,
    read_move,
    read_room,
)
from tessera.scheduler.moving.victims import (
    Identity,
    candidate,
    claim_of_holder,
    identity_of,
    is_replaceable,
)
from tessera.scheduler.objects import Claim, Pod
from tessera.scheduler.placing import Placing
from tessera.scheduler.snapshot import Snapshot

EVICT_SECONDS = 60.0
"""How long an eviction is asked for."""
STUCK_SECONDS = 15.0
"""A plan whose victims do not leave for so long holds up no other plan of its partition any more."""
LONGEST_SECONDS = EVICT_SECONDS + 3600.0 + CLOCK_SKEW_SECONDS
"""No room is kept for longer, whatever its record says; 3600 is the longest `replacementTimeoutSeconds`."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A claim of ours that holds a place for a replacement. `place` is None while it holds none."""

    claim: Claim
    record: MoveRecord
    place: Only | None


@dataclass(frozen=True, slots=True)
class Departure:
    """Pods that leave GPUs of a partition. `staying` are those that have still to leave and have not begun
    to.
    """

    record: RoomRecord | CompactionRecord
    partition: str
    staying: tuple[tuple[RoomVictim, Pod], ...]

    @property
    def left(self) -> tuple[RoomVictim, ...]:
        """Victims that are gone, or about to be."""
        stay = {victim.uid for victim, _ in self.staying}
        return tuple(victim for victim in self.record.victims if victim.uid not in stay)

    def is_stuck(self, now: float) -> bool:
        """Whether a victim stays though it was asked to leave for a while: a PodDisruptionBudget, say."""
        return bool(self.staying) and now >= self.record.evict_until - EVICT_SECONDS + STUCK_SECONDS


@dataclass(frozen=True, slots=True)
class Room(Departure):
    """A place that is kept for a waiting claim."""

    record: RoomRecord
    claim: Claim
    pod: Pod
    place: Only


@dataclass(frozen=True, slots=True)
class GivenUp(Departure):
    """A room that is not kept any more, and why: an outcome."""

    record: RoomRecord
    claim: Claim
    outcome: str


@dataclass(frozen=True, slots=True)
class Compaction(Departure):
    """Moves for which nobody waits: GPUs become empty, among them those on which pods are still `staying` (by
    number). `outcome` is why it does not go on, or ""; those that have left get their new places all the
    same.
    """

    outcome: str
    gpus: frozenset[int]


@dataclass(slots=True)
class UnderWay:
    """All moves under way."""

    rooms: dict[str, Room] = field(default_factory=dict)
    """By the UID of the waiting claim."""
    given_up: list[GivenUp] = field(default_factory=list)
    compactions: dict[CompactionRecord, Compaction] = field(default_factory=dict)
    placeholders: list[Placeholder] = field(default_factory=list)
    """Those that stay."""
    awaiting: list[Placeholder] = field(default_factory=list)
    """Those of them whose victim is gone, while nobody has come in its place."""
    useless: list[tuple[Placeholder, str]] = field(default_factory=list)
    """Those that go, with the outcome."""

    @property
    def going_on(self) -> list[Departure]:
        """Rooms that are kept, and compactions that go on."""
        return [*self.rooms.values(), *(c for c in self.compactions.values() if not c.outcome)]

    def target_for(self, pod: Pod) -> Placeholder | None:
        """The placeholder for the replacement that this pod is."""
        if not self.placeholders or not is_replaceable(pod):
            return None
        who = identity_of(pod)
        return next(
            (p for p in self.placeholders if p.record.identity == who and _may_replace(pod, p.record)), None
        )

    def identities(self) -> set[Identity]:
        """Those for whom a place is held."""
        return {p.record.identity for p in self.placeholders} | {p.record.identity for p, _ in self.useless}

    def waits_for_cleaning(self, claim: Claim) -> bool:
        """Whether something of an earlier plan for the claim is still there."""
        theirs = [*self.placeholders, *(p for p, _ in self.useless)]
        return (
            claim.uid in self.rooms
            or any(given_up.claim.uid == claim.uid for given_up in self.given_up)
            or any(p.record.waiting_claim_uid == claim.uid for p in theirs)
        )

    def parts(self) -> frozenset[tuple[str, str]]:
        """All there is. When one of these is not there any more, room may have become free."""
        return frozenset(
            [
                *(("room", uid) for uid in self.rooms),
                *(("given up", given_up.claim.uid) for given_up in self.given_up),
                *(("placeholder", p.claim.uid) for p in self.placeholders),
                *(("useless", p.claim.uid) for p, _ in self.useless),
            ]
        )

    def gpus(self) -> int:
        """The GPUs that take part, as a bit set."""
        places = [*(r.place for r in self.rooms.values()), *(p.place for p in self.placeholders)]
        bits = 0
        for place in places:
            bits |= 0 if place is None else 1 << place.gpu
        return bits


def read_under_way(placing: Placing, index: Index, *, namespace: str) -> UnderWay:
    """The moves under way."""
    snapshot = placing.snapshot
    found = UnderWay()
    placeholders: list[Placeholder] = []
    marked: list[Claim] = []
    for claim in (snapshot.claims[key] for key in sorted(index.recorded)):
        if claim.move and is_placeholder(claim, namespace):
            record = read_move(claim.move)
            assert record is not None
            placeholders.append(Placeholder(claim, record, _place_of(claim, placing)))
        elif claim.room:
            marked.append(claim)
    if not placeholders and not marked:
        return found
    pods = _Pods(snapshot, index)
    held = {
        (p.record.waiting_claim_uid, p.record.victim_pod.uid): p.place
        for p in placeholders
        if p.place is not None and not p.claim.deleting
    }
    for claim in marked:
        _judge_room(claim, held, pods, placing, found)
    for compaction in dict.fromkeys(p.record.compaction for p in placeholders):
        if compaction is not None:
            members = [p for p in placeholders if p.record.compaction == compaction]
            found.compactions[compaction] = _judge_compaction(compaction, members, pods, placing)
    for placeholder in placeholders:
        outcome = _judge_placeholder(placeholder, pods, found, snapshot.now)
        if outcome:
            found.useless.append((placeholder, outcome))
        else:
            found.placeholders.append(placeholder)
            if pods.is_gone(placeholder.record.victim_pod) and not pods.replacements(placeholder.record):
                found.awaiting.append(placeholder)
    return found


@dataclass(frozen=True, slots=True)
class _Pods:
    """The pods of a snapshot, asked by name and life, by claim, and by identity."""

    snapshot: Snapshot
    index: Index

    def staying(self, ref: PodRef | RoomVictim) -> Pod | None:
        """The pod while it is there, has not begun to end, and holds a slice of ours. Of a pod that has ended
        by itself we may see first that its claim is free.
        """
        pod = self.snapshot.pods.get((ref.namespace, ref.name))
        if pod is None or pod.uid != ref.uid or pod.deleting or pod.finished:
            return None
        claims = (self.snapshot.claim_of(pod, entry.claim) for entry in pod.claims)
        return pod if any(claim is not None and claim.holds_ours for claim in claims) else None

    def those_staying(self, victims: Sequence[RoomVictim]) -> tuple[tuple[RoomVictim, Pod], ...]:
        """The victims that are still there, with their pods."""
        return tuple((victim, pod) for victim in victims if (pod := self.staying(victim)) is not None)

    def is_gone(self, ref: PodRef) -> bool:
        """Whether nothing of the pod is left to end."""
        pod = self.snapshot.pods.get((ref.namespace, ref.name))
        return pod is None or pod.uid != ref.uid or pod.finished

    def users_of(self, claim: Claim) -> list[Pod]:
        """Pods that name the claim; of a template's claim its own pod."""
        pods = [self.snapshot.pods[key] for key in self.index.users(claim.key)]
        return [pod for pod in pods if claim.owner_uid in ("", pod.uid)]

    def replacements(self, record: MoveRecord) -> list[Pod]:
        """Pods that came in the victim's place."""
        keys = self.index.of_job(record.job_uid, record.completion_index)
        return [
            pod
            for pod in (self.snapshot.pods[key] for key in keys)
            if _may_replace(pod, record)
            and not pod.deleting
            and is_replaceable(pod)
            and identity_of(pod) == record.identity
        ]


def _may_replace(pod: Pod, record: MoveRecord) -> bool:
    """Whether a pod of that Job may be the victim's replacement. A Job makes pods in its own namespace only;
    elsewhere anybody may write its UID into a pod.
    """
    return pod.uid != record.victim_pod.uid and pod.key[0] == record.victim_pod.namespace


def _judge_room(
    claim: Claim, held: Mapping[tuple[str, str], Only], pods: _Pods, placing: Placing, found: UnderWay
) -> None:
    now = placing.snapshot.now
    record = read_room(claim.room)
    if record is None:
        record = RoomRecord("", "", (), 0.0, 0.0)
    place = placing.place_of(record.pool, record.device)
    pod = next((p for p in pods.users_of(claim) if not p.deleting and not p.node), None)
    partition = "" if place is None else partition_of(place.gpu, placing)
    staying = pods.those_staying(record.victims)
    given_up = GivenUp(record, partition, staying, claim, ABANDONED)
    over = now >= record.deadline or record.deadline > now + LONGEST_SECONDS or not record.victims
    if over or place is None or pod is None or not partition or claim.allocated is not None or claim.deleting:
        found.given_up.append(given_up)
        return
    if staying and now >= record.evict_until:
        found.given_up.append(replace(given_up, outcome=REFUSED))
        return
    room = Room(record, partition, staying, claim, pod, place)
    if staying and not placing.load.fit(pod).gpus >> place.gpu & 1:
        found.given_up.append(given_up)  # Its node was cordoned, say: nobody leaves for a place of no use.
    elif all(_may_leave(victim, at, room, held, placing) for victim, at in staying):
        found.rooms[claim.uid] = room
    else:
        found.given_up.append(given_up)


def _may_leave(
    victim: RoomVictim, pod: Pod, room: Room, held: Mapping[tuple[str, str], Only], placing: Placing
) -> bool:
    """Whether a victim that is still there may be evicted, whoever wrote its name into the record."""
    home = _home(pod, placing)
    if home is None or home.gpu != room.place.gpu:
        return False
    if victim.preempted:
        _, rule = placing.reserves.movable[room.partition]
        return rule.preempts and may_preempt(room.pod, pod)
    if pod.priority > room.pod.priority:
        return False
    return _takes(held.get((room.claim.uid, victim.uid)), pod, placing)


def _takes(target: Only | None, pod: Pod, placing: Placing) -> bool:
    """Whether a place is held, on a node that takes the replacement of the pod."""
    # As its replacement will be: bound to no node.
    return target is not None and bool(placing.load.fit(replace(pod, node="")).gpus >> target.gpu & 1)


def _judge_compaction(
    record: CompactionRecord, members: Sequence[Placeholder], pods: _Pods, placing: Placing
) -> Compaction:
    places = (p.place for p in members if p.place is not None)
    partition = next((name for place in places if (name := partition_of(place.gpu, placing))), "")
    staying = pods.those_staying(record.victims)
    compaction = Compaction(record, partition, staying, "", frozenset())
    if not partition or placing.reserves.movable[partition][1].compaction is None:
        return replace(compaction, outcome=ABANDONED)
    if staying and placing.snapshot.now >= record.evict_until:
        return replace(compaction, outcome=REFUSED)
    held = {p.record.victim_pod.uid: p.place for p in members if not p.claim.deleting}
    leaving = {victim.uid for victim in record.victims}
    gpus = set()
    for victim, pod in staying:
        home = _home(pod, placing)
        if (
            home is None
            or partition_of(home.gpu, placing) != partition
            or not _is_theirs(home.gpu, leaving, placing)
            or not _takes(held.get(victim.uid), pod, placing)
        ):
            return replace(compaction, outcome=ABANDONED)
        gpus.add(home.gpu)
    return replace(compaction, gpus=frozenset(gpus))


def _is_theirs(gpu: int, leaving: Collection[str], placing: Placing) -> bool:
    """Whether only pods that leave are on the GPU; somebody may have come since."""
    claims = (claim_of_holder(owner, placing.snapshot) for owner in placing.state.gpus[gpu].held)
    return all(claim is not None and claim.owner_uid in leaving for claim in claims)


def _home(pod: Pod, placing: Placing) -> Only | None:
    """Where a pod is that may be moved, or None."""
    found = candidate(pod, placing.snapshot)
    return None if found is None else placing.place_of(*found.device)


def may_preempt(pod: Pod, victim: Pod) -> bool:
    """Whether the pod is more important than the victim, and may make use of it."""
    return not never_preempts(pod) and pod.priority > victim.priority


def never_preempts(pod: Pod) -> bool:
    """Whether the pod's priority decides the order of service only."""
    return (pod.raw.get("spec") or {}).get("preemptionPolicy") == "Never"


def partition_of(gpu: int, placing: Placing) -> str:
    """The partition that allows moves on this GPU, or ""."""
    movable = placing.reserves.movable
    return next((name for name, (bits, _) in movable.items() if bits >> gpu & 1), "")


def _judge_placeholder(placeholder: Placeholder, pods: _Pods, found: UnderWay, now: float) -> str:
    """The outcome with which it goes, or "" while it stays."""
    record = placeholder.record
    if pods.staying(record.victim_pod) is not None:
        if record.compaction is not None:
            return found.compactions[record.compaction].outcome
        room = found.rooms.get(record.waiting_claim_uid)
        named = room is not None and any(v.uid == record.victim_pod.uid for v in room.record.victims)
        kept = named and placeholder.place is not None and not placeholder.claim.deleting
        given_up = (g.outcome for g in found.given_up if g.claim.uid == record.waiting_claim_uid)
        return "" if kept and now < record.deadline else next(given_up, ABANDONED)
    claims = (pods.snapshot.claim_of(p, p.claims[0].claim) for p in pods.replacements(record))
    placed = any(claim is not None and claim.allocated is not None for claim in claims)
    if placeholder.place is None:
        # It is cleared just before the replacement gets its place; a kill came between that and its deletion.
        return MOVED if placed else ELSEWHERE
    if placed or placeholder.claim.deleting:
        return ELSEWHERE
    return NO_REPLACEMENT if now >= record.deadline else ""


def _place_of(claim: Claim, placing: Placing) -> Only | None:
    if claim.allocated is None or not claim.allocated.devices:
        return None
    return placing.place_of(*claim.allocated.devices[0])
