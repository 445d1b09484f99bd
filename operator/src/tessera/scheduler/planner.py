"""One round of scheduling: a snapshot -> what to do. No I/O, no clock.

A round has five parts, each with a module of its own: what is given up (`takeback`), the next steps of moves
(`moving`), who is served and in which order (`units`), where each goes (`placing`, and `gangs` for several at
once), and what those are told who get nothing (`refusals`, `retries`), unless a move makes room for them.
What a unit gets counts at once for the next one in the same round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from tessera.api import names
from tessera.api.reasons import Reason
from tessera.metrics import registry as metrics
from tessera.placement.engine import Engine
from tessera.placement.geometry import LegalPlacement
from tessera.placement.policies import Policy
from tessera.placement.queue_order import QueueOrder
from tessera.placement.request import smallest_slices
from tessera.scheduler.actions import Action, GiveUp, Place, PodPlacement, Protect, Refuse
from tessera.scheduler.changes import Changes
from tessera.scheduler.gangs import place_together
from tessera.scheduler.index import Index
from tessera.scheduler.moving.steps import Moving
from tessera.scheduler.moving.words import no_move_words
from tessera.scheduler.node_load import NodeLoad
from tessera.scheduler.objects import Key, Pod
from tessera.scheduler.occupancy import Occupancy
from tessera.scheduler.placing import Placing
from tessera.scheduler.queue import Queue
from tessera.scheduler.refusals import NotYet, Unserved
from tessera.scheduler.requests import RequestReader
from tessera.scheduler.reservations import Reservations
from tessera.scheduler.reserves import PartitionReserves, Reserves
from tessera.scheduler.retries import Attempt, Retries
from tessera.scheduler.selectors import SelectorCache
from tessera.scheduler.snapshot import Snapshot
from tessera.scheduler.takeback import Avoidance, Clearings, TakeBack, find_take_backs, identity
from tessera.scheduler.units import Unit, check_gang, unit_claims
from tessera.scheduler.wanted import Wanted

GANG_TIME_LIMIT_SECONDS = 600.0
_FORGET_SECONDS = 60.0
_MOST_TRIED = 256
"""Units that are tried in one round, so that the first of a burst do not wait until the last is decided, and
the process is not deaf for longer than a tenth of a second.
"""


class Planner:
    """Decides round after round. Holds what may be lost at any time: ranks, compiled selectors, avoided
    nodes, attempts.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        grace_seconds: float,
        gang_time_limit_seconds: float = GANG_TIME_LIMIT_SECONDS,
        namespace: str = names.SYSTEM_NAMESPACE,
        moving: Moving | None = None,
        order: QueueOrder | None = None,
    ) -> None:
        self.engine = Engine(policy)
        self.occupancy = Occupancy()
        self.avoidance = Avoidance()
        self.index = Index()
        self.queue = Queue()
        self.moving = moving or Moving(policy, namespace=namespace)
        self._order = order or QueueOrder()
        self._reservations = Reservations(self._order)
        self.unfinished = False
        """Whether the last round left units for the next one that it could have tried."""
        self._grace_seconds = grace_seconds
        self._gang_time_limit_seconds = gang_time_limit_seconds
        self._selectors = SelectorCache()
        self._reader = self._new_reader()
        self.reserves = Reserves((), inventory=self.occupancy.inventory, state=self.occupancy.state)
        self._reserved: tuple[PartitionReserves, ...] = ()
        self._retries = Retries()
        self._load = NodeLoad()
        self._clearings = Clearings()
        self._counted: dict[Key, str] = {}
        self._asked: dict[str, tuple[LegalPlacement, ...]] = {}
        self._followed: Snapshot | None = None
        self._forgot_at = float("-inf")

    @property
    def waiting(self) -> int:
        """Pods that wait for a slice after the last round."""
        return self.queue.depth

    def plan(self, snapshot: Snapshot) -> list[Action]:
        """What to do now. Repeating it on the same snapshot gives the same but for the refusals, which are
        told once, and evictions, which are asked for every few seconds.
        """
        try:
            return self._plan(self.open_books(snapshot))
        finally:
            self._reservations.end()
            self.moving.close()

    def _plan(self, placing: Placing) -> list[Action]:
        snapshot = placing.snapshot
        actions: list[Action] = [Protect(snapshot.claims[key]) for key in self.index.unprotected]
        given_up = self.given_up(snapshot)
        actions.extend(GiveUp(t.claim, t.pod, t.why) for t in given_up)
        actions.extend(self.moving.go_on())
        stuck = {t.pod.key for t in given_up if t.pod is not None}
        world = (
            self.occupancy.releases,
            self._load.freed,
            self.moving.changes,
            self._reservations.changes,
        )
        self._retries.begin(world=world, now=snapshot.now)
        tried = 0
        for unit in self.units(placing, stuck):
            if self._retries.sleeps(unit) and not self.moving.has_place(unit):
                self._reservations.keep_on(unit, placing, self.moving)
                continue
            if tried == _MOST_TRIED:
                self._reservations.keep_on(unit, placing, self.moving)
                self.queue.still_waits(unit)
                continue
            actions.extend(self._serve(unit, placing))
            placing.settle()
            tried += 1
        self.unfinished = tried == _MOST_TRIED
        keys = self.index.keys
        actions.extend(
            self.moving.compact(
                lambda: (snapshot.pods[keys[uid]] for uid in self.queue.waiting if uid in keys)
            )
        )
        return actions

    def given_up(self, snapshot: Snapshot) -> list[TakeBack]:
        """Which allocations are taken back now; once the books are open."""
        return list(
            find_take_backs(
                snapshot,
                self.index,
                grace_seconds=self._grace_seconds,
                gone=self.occupancy.gone,
                namespace=self.moving.namespace,
            )
        )

    def units(self, placing: Placing, stuck: Collection[Key]) -> list[Unit]:
        """Who needs something from us, in the order of service."""
        found = self.index.units(placing.snapshot, stuck)
        if self._order.rule == "age":
            return found  # They are kept in this order.

        def rank(unit: Unit) -> tuple[float, ...]:
            slices = sum(p.width for pod in unit.pods for p in self._slices_asked(pod, placing))
            return self._order.rank(unit.waiting(slices), now=placing.snapshot.now)

        return sorted(found, key=rank)

    def open_books(self, snapshot: Snapshot) -> Placing:
        """The books of a round over this snapshot, with nothing decided yet; `moving.close` ends it."""
        changes = snapshot.changes_since(self._followed)
        affected = self.index.follow(snapshot, changes)
        rebuilt = self.occupancy.follow(snapshot, changes)
        self._load.follow(snapshot, self.occupancy.state, nodes=changes.nodes, pods=affected.pods)
        self._clearings.follow(snapshot, changes, self.index, self.avoidance)
        self._retries.follow(snapshot, changes, affected.pods)
        self.queue.follow(snapshot, affected.pods)
        self._forget(snapshot, changes, affected.gone)
        # Last: when one of them fails, all of them are told the same changes again.
        self._followed = snapshot
        if rebuilt:
            self._reader = self._new_reader()
            self._asked.clear()
        if rebuilt or snapshot.reserves is not self._reserved:
            self._reserved = snapshot.reserves
            self.reserves = Reserves(
                snapshot.reserves, inventory=snapshot.inventory, state=self.occupancy.state
            )
        placing = Placing(
            snapshot,
            engine=self.engine,
            occupancy=self.occupancy,
            reader=self._reader,
            reserves=self.reserves,
            avoidance=self.avoidance,
            load=self._load,
        )
        self.moving.begin(placing, self.index)
        return placing

    def place_unit(self, unit: Unit, placing: Placing) -> tuple[PodPlacement, ...]:
        """All pods of a unit, or none. Raises Unserved or NotYet, with the books as they were."""
        check_gang(unit)
        everyone = [placing.wanted(pod) for pod in unit.pods]
        for wanted in everyone:
            self._count_arrivals(wanted)
        if unit.gang:
            return place_together(unit.pods, placing)
        return (self.moving.place_held(unit.pods[0]) or placing.place_alone(everyone[0]),)

    def _new_reader(self) -> RequestReader:
        return RequestReader(
            inventory=self.occupancy.inventory, state=self.occupancy.state, selectors=self._selectors
        )

    # Serving.

    def _serve(self, unit: Unit, placing: Placing) -> Iterator[Action]:
        if any(pod.held_by_others for pod in unit.pods):
            return
        snapshot = placing.snapshot
        limit = unit.time_limit_seconds(self._gang_time_limit_seconds)
        overdue = limit is not None and unit.age_seconds(snapshot.now) >= limit
        avoided = self.avoidance.nodes(unit.pods[0], now=snapshot.now)
        attempt = self._retries.attempt(unit, snapshot, special=(avoided, overdue))
        if self._retries.is_useless(unit, attempt) and not self.moving.has_place(unit):
            self._reservations.keep_on(unit, placing, self.moving)
            self.queue.still_waits(unit)
            return
        try:
            placed = self.place_unit(unit, placing)
        except NotYet:
            self.queue.still_waits(unit)
            if overdue:
                yield from self._give_back(unit, placing)
        except Unserved as refused:
            self._remember_refusal(unit, attempt, placing)
            self.queue.refused(
                unit,
                self._known_profile(refused.profile),
                lambda pod: [placement.profile for placement in self._slices_asked(pod, placing)],
            )
            yield from self.moving.lost_targets()
            made = self._make_room(unit, refused, placing)
            if made is not None:
                yield from made
            elif not self._waits_for_room(unit):
                told = self._with_remedies(unit, refused, placing)
                yield from self._refuse(unit, self._in_time(told, limit if overdue else None), placing)
        else:
            self._retries.placed(unit)
            self._reservations.forget(pod.uid for pod in unit.pods)
            yield from self.moving.lost_targets()
            frees = () if unit.gang else self.moving.frees(unit.pods[0])
            yield Place(self.queue.placed(placed, snapshot.now), frees)
            for one in placed:
                if not frees:  # A replacement is no new request.
                    self.moving.accepted(one)
            for result in (r for p in placed for c in p.claims for r in c.results):
                metrics.PLACEMENTS_TOTAL.labels(Reason.PLACED, result.profile).inc()

    def _remember_refusal(self, unit: Unit, attempt: Attempt, placing: Placing) -> None:
        if unit.gang:
            # It changes with each of its members, and with the time.
            self._retries.refused(unit, attempt)
            return
        (pod,) = unit.pods
        until = self.avoidance.next_end(pod, now=placing.snapshot.now)
        # One for whom room is made already does not answer for others: they may get plans of their own.
        question = None if self._waits_for_room(unit) else placing.refused_for.get(pod.uid)
        self._retries.refused(unit, attempt, until=until, question=question)

    def _make_room(self, unit: Unit, refused: Unserved, placing: Placing) -> list[Action] | None:
        """The first steps of a move that helps a unit for which there is no room, or None."""
        if unit.gang or refused.reason != Reason.UNPLACEABLE:
            return None
        made = self.moving.make_room(unit.pods[0], placing.wanted(unit.pods[0]))
        if made is not None:
            profile = self._known_profile(refused.profile)
            metrics.PLACEMENTS_TOTAL.labels(Reason.MAKING_ROOM, profile).inc()
        return made

    def _waits_for_room(self, unit: Unit) -> bool:
        """Whether a move makes room for the unit already; it was told so."""
        return not unit.gang and self.moving.room_of(unit.pods[0]) is not None

    def keep_place(self, unit: Unit, refused: Unserved, placing: Placing) -> str:
        """What is kept from now on for a unit that was refused at its turn, in words; "" when nothing is."""
        if unit.gang or not refused.lacks_room or self._waits_for_room(unit):
            return ""
        return self._reservations.keep(unit, placing, self.moving, self.index)

    def _with_remedies(self, unit: Unit, refused: Unserved, placing: Placing) -> Unserved:
        """The refusal with what is done about it, and why no move is, where room is what is missing. What is
        kept comes first: events are cut at 1,024 bytes, and the room of many profiles is long.
        """
        if unit.gang or not refused.lacks_room:
            return refused
        kept = self.keep_place(unit, refused, placing)
        why = no_move_words(placing.wanted(unit.pods[0]), self.moving, placing)
        words = "; ".join([*([kept] if kept else []), refused.message, f"move: {why}"])
        return Unserved(refused.reason, words, profile=refused.profile)

    @staticmethod
    def _in_time(refused: Unserved, limit: float | None) -> Unserved:
        """The refusal, or what it becomes when the gang's time limit (seconds) has passed."""
        if limit is None or refused.reason == Reason.INVALID_REQUEST:
            return refused
        return Unserved(
            Reason.GANG_INCOMPLETE,
            f"it has not come together within {limit:.0f} s and holds nothing: {refused.message}; make the "
            "missing pods or room for them, or delete its pods",
            profile=refused.profile,
        )

    def _refuse(self, unit: Unit, refused: Unserved, placing: Placing) -> Iterator[Action]:
        metrics.PLACEMENTS_TOTAL.labels(refused.reason, self._known_profile(refused.profile)).inc()
        message = f"gang {unit.gang}: {refused.message}" if unit.gang else refused.message
        yield from self._give_back(unit, placing)
        claims = unit_claims(unit, placing.snapshot)
        for pod in unit.pods:
            waiting = tuple(c for p, c in claims if p is pod and c.allocated is None)
            yield Refuse(pod, waiting, refused.reason, message)

    def _give_back(self, unit: Unit, placing: Placing) -> Iterator[Action]:
        """A gang that cannot start must not keep others from starting."""
        if not unit.gang:
            return
        members = {pod.uid for pod in unit.pods}
        told: set[Key] = set()
        for pod, claim in unit_claims(unit, placing.snapshot):
            if (
                claim.holds_ours
                and pod.gated
                and set(claim.reserved_for) <= members
                and claim.key not in told
            ):
                told.add(claim.key)
                yield GiveUp(claim, pod, f"gang {unit.gang} cannot be placed as a whole")

    # What has changed since the last round.

    def _forget(self, snapshot: Snapshot, changes: Changes, gone: Sequence[str]) -> None:
        self._retries.forget(gone)
        self.queue.forget(gone)
        self._reservations.forget(gone)
        for uid in gone:
            self._asked.pop(uid, None)
        for key in changes.claims:
            claim = snapshot.claims.get(key)
            if claim is None or self._counted.get(key) != claim.uid:
                self._counted.pop(key, None)
        if snapshot.now - self._forgot_at >= _FORGET_SECONDS:
            self._forgot_at = snapshot.now
            self.avoidance.forget(lambda: {identity(p) for p in snapshot.pods.values()}, now=snapshot.now)

    def _count_arrivals(self, wanted: Wanted) -> None:
        """Once per claim, an arrival for the policy."""
        for claim, read in zip(wanted.todo, wanted.read, strict=True):
            if self._counted.get(claim.key) == claim.uid:
                continue
            self._counted[claim.key] = claim.uid
            for placement in (s for r in read.requests for s in smallest_slices(r)):
                self.engine.policy.record(placement.profile)

    def _slices_asked(self, pod: Pod, placing: Placing) -> tuple[LegalPlacement, ...]:
        """The smallest placement that would do for each slice of a pod; none while that cannot be said."""
        if pod.uid not in self._asked:
            try:
                requests = placing.wanted(pod).requests
            except (Unserved, NotYet):
                return ()
            self._asked[pod.uid] = tuple(s for request in requests for s in smallest_slices(request))
        return self._asked[pod.uid]

    def _known_profile(self, label: str) -> str:
        """A profile for a metric label: only those that GPUs offer, so that users' text cannot grow the
        metric.
        """
        known = {p for g in self.occupancy.state.geometries() for p in g.profiles}
        return label if label in known else "other"
