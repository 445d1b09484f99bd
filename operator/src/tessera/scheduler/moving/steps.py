"""What the planner's round asks about moves: the steps of those under way, and new ones.

`begin` reads what is under way and closes the kept rooms in the books of the round, so that nobody else is
placed there; `go_on` gives the next step of each; `place_held` serves those for whom a place is held;
`make_room` begins a plan for a pod that fits nowhere, and `compact` one where nobody waits. At the end of the
round `close` opens the books again: they then say what claims hold, and nothing else.

In memory are only accounts, whom to leave alone, and when the API server was last asked for something. Who
has left in the last hour is also noted on our Lease.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from tessera.api import names
from tessera.api.reasons import Reason
from tessera.placement.policies import Policy
from tessera.placement.policies_value import FragmentationTenancy, ValuePolicy
from tessera.scheduler.actions import (
    Action,
    AskForReplacement,
    Evict,
    FreeTarget,
    HoldTarget,
    KeepRoom,
    NoteDepartures,
    PodPlacement,
)
from tessera.scheduler.barred import Only
from tessera.scheduler.departures import (
    Departures,
    read_departures,
    within_the_hour,
    write_departures,
)
from tessera.scheduler.index import Index
from tessera.scheduler.move_records import ELSEWHERE, REFUSED, CompactionRecord, RoomRecord
from tessera.scheduler.moving.beginnings import Beginnings, first_steps
from tessera.scheduler.moving.compacting import Compacting
from tessera.scheduler.moving.plans import Plan
from tessera.scheduler.moving.ration import Account, LeftAlone, Ration
from tessera.scheduler.moving.rounds import Closed, MovingRound
from tessera.scheduler.moving.under_way import (
    Departure,
    Placeholder,
    Room,
    UnderWay,
    partition_of,
    read_under_way,
)
from tessera.scheduler.moving.victims import identity_of, is_replaceable
from tessera.scheduler.objects import Claim, Pod
from tessera.scheduler.occupancy import Holder
from tessera.scheduler.placing import Placing
from tessera.scheduler.refusals import NotYet, Unserved
from tessera.scheduler.units import Unit
from tessera.scheduler.wanted import Wanted

ASK_AGAIN_SECONDS = 5.0
"""So often an eviction is asked for, and whether a replacement will come."""


class Moving:
    """Moves and preemption, round after round. Placeholders are looked for in `namespace` only."""

    def __init__(
        self, policy: Policy, *, namespace: str = names.SYSTEM_NAMESPACE, account: type[Account] = Account
    ) -> None:
        self.changes = 0
        """Grows whenever a kept room or a held place may have become free."""
        self.namespace = namespace
        self.knows_the_hour = False
        """Whether it was told what an earlier leader has noted."""
        values = policy if isinstance(policy, ValuePolicy) else FragmentationTenancy()
        self._beginnings = Beginnings(values)
        self._compacting = Compacting(values)
        self._new_account = account
        self._accounts: dict[str, Account] = {}
        self._earlier: dict[str, Mapping[int, int]] = {}
        self._left_alone = LeftAlone()
        self._reluctant = LeftAlone()
        self._stuck: frozenset[RoomRecord | CompactionRecord] = frozenset()
        self._asked_at: dict[str, float] = {}
        self._left: set[str] = set()
        self._parts: frozenset[tuple[str, str]] = frozenset()
        self._round: MovingRound | None = None

    @property
    def under_way(self) -> UnderWay:
        """The moves under way in this round."""
        return self._now.under_way

    @property
    def busy(self) -> int:
        """GPUs on which something is moved or reserved in this round, as a bit set."""
        return self._now.busy

    @property
    def in_flight(self) -> set[str]:
        """Partitions in which a plan is under way, so that no other one begins there."""
        return self._now.in_flight

    def remember(self, note: str) -> None:
        """What an earlier leader has noted of the last hour; before the first round."""
        self.knows_the_hour = True
        read = read_departures(note)
        self._earlier = dict(read.by_minute)
        self._left = set(read.counted)

    def rations(self, *, now: float) -> list[Ration]:
        """What is left for each partition that allows moves."""
        return [
            Ration(name, account.left_this_hour(now), account.earned)
            for name, account in sorted(self._accounts.items())
        ]

    # The round.

    def begin(self, placing: Placing, index: Index) -> None:
        """Read what is under way and close the kept rooms in the books."""
        under_way = read_under_way(placing, index, namespace=self.namespace)
        self._round = MovingRound(placing, under_way, Closed(placing.state), busy=under_way.gpus())
        self._follow_rules(placing)
        parts = under_way.parts()
        self.changes += bool(self._parts - parts)
        self._parts = parts
        rooms = under_way.rooms.values()
        stuck = frozenset(d.record for d in under_way.going_on if d.is_stuck(placing.snapshot.now))
        self.changes += bool(stuck - self._stuck)  # Others may have their plans or their places now.
        self._stuck = stuck
        for name, account in self._accounts.items():
            account.promised = sum(len(d.staying) for d in under_way.going_on if d.partition == name)
        for room in rooms:
            self._round.closed.close(room.claim.uid, room.place)
        for compaction in under_way.compactions.values():
            if not compaction.is_stuck(placing.snapshot.now):
                for gpu in compaction.gpus:
                    self._round.closed.fill(gpu)
        for placeholder in under_way.placeholders:
            if placeholder.place is not None:
                self._round.keep(placeholder.claim.key[1], placeholder.record, placeholder.place)

    def _follow_rules(self, placing: Placing) -> None:
        movable = placing.reserves.movable
        for name, (bits, rule) in movable.items():
            account = self._accounts.get(name)
            if account is None:
                self._accounts[name] = self._new_account(rule, gpus=bits.bit_count())
                self._accounts[name].remember(self._earlier.pop(name, {}))
            else:
                account.follow(rule, gpus=bits.bit_count())
        now = placing.snapshot.now
        for name in self._accounts.keys() - movable.keys():
            self._earlier[name] = self._accounts.pop(name).departures(now)

    def go_on(self) -> Iterator[Action]:
        """The next step of every move under way."""
        under_way = self.under_way
        now = self._now.placing.snapshot.now
        counted_before = len(self._left)
        for given_up in under_way.given_up:
            if given_up.outcome == REFUSED:
                self._leave_alone(given_up.record, now)
            # The record stays for a round more when somebody is counted from it: until that is noted.
            is_news = self._count_left(given_up, now)
            if not given_up.claim.deleting and not is_news:
                yield KeepRoom(given_up.claim, None)
        compactions = under_way.compactions
        news = [record for record, compaction in compactions.items() if self._count_left(compaction, now)]
        for placeholder, outcome in under_way.useless:
            if placeholder.record.compaction in news:
                continue  # It stays for a round more, likewise.
            if outcome == REFUSED:
                self._left_alone.add(placeholder.record.identity, now=now)
            yield FreeTarget(placeholder.claim, outcome)
        for room in under_way.rooms.values():
            self._count_left(room, now)
        for departure in under_way.going_on:
            if departure.is_stuck(now):
                self._reluctant.add(departure.staying[0][1].key[0], now=now)
            yield from self._evict(departure, now)
        for placeholder in under_way.awaiting:
            if self._may_ask(placeholder.claim.uid, now):
                yield AskForReplacement(placeholder.claim, placeholder.record)
        if len(self._left) > counted_before:
            yield NoteDepartures(self._note(now))
        departures = [*under_way.rooms.values(), *under_way.given_up, *compactions.values()]
        alive = {victim.uid for departure in departures for victim in departure.record.victims}
        asked = alive | {placeholder.claim.uid for placeholder in under_way.awaiting}
        self._asked_at = {uid: at for uid, at in self._asked_at.items() if uid in asked}
        self._left &= alive

    def close(self) -> None:
        """The round is over: the books say again what claims hold."""
        if self._round is not None:
            self._round.end()
            self._round = None

    def reserve(self, claim: Claim, place: Only, pod: Pod) -> None:
        """Keep a place for a pod from all that are served later in the round, and from moves."""
        self._now.reserve(claim, place, pod.requests)

    # Those for whom a place is held.

    def has_place(self, unit: Unit) -> bool:
        """Whether trying to place the unit makes sense whatever was answered before."""
        if unit.gang:
            return False
        pod = unit.pods[0]
        room = self.room_of(pod)
        return self.under_way.target_for(pod) is not None or (room is not None and not room.staying)

    def room_of(self, pod: Pod) -> Room | None:
        """The room that is kept for the pod."""
        rooms = self.under_way.rooms.values()
        return next((room for room in rooms if room.pod.uid == pod.uid), None)

    def place_held(self, pod: Pod) -> PodPlacement | None:
        """The pod on the place that is held for it, or None when there is none or it is of no use (any more).
        Raises NotYet, and Unserved when the pod cannot be placed anywhere.
        """
        target = self.under_way.target_for(pod)
        if target is not None and target.place is not None:
            return self._place_on_target(pod, target, target.place)
        room = self.room_of(pod)
        return None if room is None else self._place_in_room(pod, room)

    def frees(self, pod: Pod) -> tuple[Claim, ...]:
        """The placeholders that go for the pod's placement."""
        return self._now.frees.get(pod.uid, ())

    def lost_targets(self) -> list[FreeTarget]:
        """Placeholders that turned out to be of no use since the last call."""
        lost, self._now.lost = self._now.lost, []
        return lost

    def accepted(self, placed: PodPlacement) -> None:
        """A pod was placed: its partition earns its share of a move."""
        for result in (r for c in placed.claims for r in c.results):
            place = self._now.placing.place_of(result.pool, result.device)
            partition = "" if place is None else partition_of(place.gpu, self._now.placing)
            if partition:
                self._accounts[partition].accepted()

    def _place_on_target(self, pod: Pod, target: Placeholder, place: Only) -> PodPlacement | None:
        placing, claim = self._now.placing, target.claim
        kept = self._now.let_go(claim.key[1])
        holder = _holder_of(claim)
        placing.state.release(holder)
        try:
            placed = placing.place(pod, only=place)
        except (Unserved, NotYet) as refused:
            placing.state.occupy(placing.state.gpus[place.gpu].name, place.index, owner=holder)
            if kept:
                self._now.keep(claim.key[1], target.record, place)
            if isinstance(refused, NotYet):
                raise  # Its claim is still to be made.
            self._now.lost.append(FreeTarget(claim, ELSEWHERE))
            return None
        self._now.frees[pod.uid] = (claim,)
        return placed

    def _place_in_room(self, pod: Pod, room: Room) -> PodPlacement | None:
        placing, closed = self._now.placing, self._now.closed
        closed.open(room.claim.uid)
        gpu = placing.state.gpus[room.place.gpu]
        if gpu.table.fits(gpu.layout, room.place.index):
            try:
                return placing.place(pod, only=room.place)
            except Unserved:
                pass  # Its node does not take it now; it may fit elsewhere, else it goes on waiting.
        closed.close(room.claim.uid, room.place)
        return None

    # New plans.

    def make_room(self, pod: Pod, wanted: Wanted) -> list[Action] | None:
        """The first steps of a plan for a pod that fits nowhere, or None."""
        plan = self.find_plan(pod, wanted)
        if plan is None:
            return None
        self._beginnings.begun(wanted.todo[0], now=self._now.placing.snapshot.now)
        seconds = self._accounts[plan.partition].rule.replacement_seconds
        return list(first_steps(plan, pod, wanted.todo[0], self._now, replacement_seconds=seconds))

    def find_plan(self, pod: Pod, wanted: Wanted) -> Plan | None:
        """The plan that would be made for the pod now, or None."""
        now = self._now.placing.snapshot.now
        return self._beginnings.find(
            pod,
            wanted,
            self._now,
            accounts=self._accounts,
            left_alone=self._left_alone.now(now),
            reluctant=self._reluctant.now(now),
        )

    def may_begin(self, partition: str) -> bool:
        """Whether the ration of a partition leaves a victim for a new plan."""
        account, now = self._accounts[partition], self._now.placing.snapshot.now
        return bool(account.movable_now(now) or account.preemptable_now(now))

    def compact(self, waiting: Callable[[], Iterable[Pod]]) -> Iterator[HoldTarget]:
        """The first steps of compactions that are due, where no `waiting` pod could use the GPUs."""
        now = self._now.placing.snapshot.now
        return self._compacting.begin(
            self._now,
            waiting,
            accounts=self._accounts,
            left_alone=self._left_alone.now(now),
            reluctant=self._reluctant.now(now),
        )

    # Steps of those under way.

    def _evict(self, departure: Departure, now: float) -> Iterator[Evict]:
        """One victim after the other, so that a refusal costs nobody else his place."""
        if not departure.staying:
            return
        victim, pod = departure.staying[0]
        if not self._may_ask(victim.uid, now):
            return
        if not isinstance(departure, Room):
            why = "evicted so that its GPU becomes empty; a slice is held for its replacement"
            yield Evict(pod, why, Reason.COMPACTED, None)
            return
        waiting = "/".join(departure.pod.key)
        if victim.preempted:
            why = f"evicted to make room for pod {waiting}, whose priority is higher"
            yield Evict(pod, why, Reason.PREEMPTED, departure.pod)
        else:
            why = f"evicted to make room for pod {waiting}; a slice is held for its replacement"
            yield Evict(pod, why, Reason.MOVED, departure.pod)

    def _may_ask(self, uid: str, now: float) -> bool:
        """Whether to ask the API server about this one now; then not again for some seconds."""
        if now - self._asked_at.get(uid, float("-inf")) < ASK_AGAIN_SECONDS:
            return False
        self._asked_at[uid] = now
        return True

    def _count_left(self, departure: Departure, now: float) -> bool:
        """Pay for victims that have begun to leave, and let their replacements alone for a while. Whether
        there were any that had not been counted before.
        """
        moved = {p.record.victim_pod.uid: p.record.identity for p in self.under_way.placeholders}
        news = [victim for victim in departure.left if victim.uid not in self._left]
        if not news or not departure.partition:
            return False
        for victim in news:
            self._left.add(victim.uid)
            self._accounts[departure.partition].left(now, moved=not victim.preempted)
            if victim.uid in moved:
                self._left_alone.add(moved[victim.uid], now=now)
        return True

    def _note(self, now: float) -> str:
        """Who has left in the last hour, for the next leader."""
        left = dict(self._earlier)
        left |= {name: account.departures(now) for name, account in self._accounts.items()}
        by_minute = {name: within_the_hour(one, now=now) for name, one in left.items()}
        return write_departures(Departures(by_minute, frozenset(self._left)))

    def _leave_alone(self, record: RoomRecord, now: float) -> None:
        snapshot = self._now.placing.snapshot
        for victim in record.victims:
            pod = snapshot.pods.get((victim.namespace, victim.name))
            if pod is not None and pod.uid == victim.uid and is_replaceable(pod):
                self._left_alone.add(identity_of(pod), now=now)

    @property
    def _now(self) -> MovingRound:
        assert self._round is not None, "no round has begun"
        return self._round


def _holder_of(claim: Claim) -> Holder:
    """The placeholder's entry in the cluster state."""
    assert claim.allocated is not None
    pool, device = claim.allocated.devices[0]
    return Holder(claim.uid, "/".join(claim.key), pool, device)
