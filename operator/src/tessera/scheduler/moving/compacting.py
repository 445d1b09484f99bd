"""Compaction: while nobody waits for a partition's GPUs, some of them are emptied by a few moves.

Every so often, where the partition asks for it, the search of the placement core is made. What it finds is
begun when each GPU that becomes empty is worth its moves, when the account has that much to spare beside what
waiting pods may need, and when nothing else is under way on these GPUs. From then on all is in the records of
the placeholders, as for other moves; only is no room kept.

It cannot go back and forth: each compaction leaves fewer GPUs in use, and a V that is lower by a slice for
each pod that was moved; and who was moved is left alone for a while.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tessera.placement.compaction import pays, plan_compaction
from tessera.placement.policies_value import ValuePolicy
from tessera.placement.request import Feasible
from tessera.scheduler.actions import HoldTarget
from tessera.scheduler.move_records import CompactionRecord, RoomVictim
from tessera.scheduler.moving.beginnings import hold
from tessera.scheduler.moving.plans import PRICE, Asked, Leaving, Victims, can_be_made
from tessera.scheduler.moving.ration import Account
from tessera.scheduler.moving.rounds import MovingRound
from tessera.scheduler.moving.under_way import EVICT_SECONDS
from tessera.scheduler.objects import Pod
from tessera.scheduler.placing import Placing
from tessera.scheduler.refusals import NotYet, Unserved

BUSY_SECONDS = 10.0
"""Where pods wait or a move is under way, it is looked again after so long."""


class Compacting:
    """Looks for compactions by the values of a policy. In memory is only when to look next."""

    def __init__(self, policy: ValuePolicy) -> None:
        self._policy = policy
        self._due: dict[str, float] = {}

    def begin(
        self,
        moving: MovingRound,
        waiting: Callable[[], Iterable[Pod]],
        *,
        accounts: Mapping[str, Account],
        left_alone: Collection[Hashable],
        reluctant: Collection[Hashable],
    ) -> Iterator[HoldTarget]:
        """The first steps where a compaction is due. `waiting` are the pods that wait for a slice."""
        placing = moving.placing
        asked = Asked(None, {*left_alone, *moving.under_way.identities()}, reluctant)
        for name in self._due_now(placing):
            bits, rule = placing.reserves.movable[name]
            if moving.busy & bits or any(may_use(pod, bits, placing) for pod in waiting()):
                self._due[name] = placing.snapshot.now + BUSY_SECONDS
                continue
            leaving = self._plan(name, asked, accounts[name], placing)
            if leaving:
                yield from _first_steps(leaving, moving, replacement_seconds=rule.replacement_seconds)

    def _due_now(self, placing: Placing) -> list[str]:
        """The partitions whose time has come; for these the next time begins. The first one does when the
        partition is seen for the first time.
        """
        now = placing.snapshot.now
        rules = {name: rule.compaction for name, (_, rule) in placing.reserves.movable.items()}
        next_time = {name: now + rule.every_seconds for name, rule in rules.items() if rule is not None}
        self._due = {name: min(self._due.get(name, math.inf), at) for name, at in next_time.items()}
        due = [name for name, at in self._due.items() if at <= now]
        self._due |= {name: next_time[name] for name in due}
        return due

    def _plan(self, name: str, asked: Asked, account: Account, placing: Placing) -> Sequence[Leaving]:
        """Who leaves for where, so that GPUs become empty; nobody when that is not worth it."""
        bits, rule = placing.reserves.movable[name]
        assert rule.compaction is not None
        most = account.movable_now(placing.snapshot.now, most=rule.compaction.most_moves)
        if not most:
            return ()
        victims = Victims(asked, placing, rule, targets_within=bits)
        found = plan_compaction(
            placing.state,
            self._policy,
            most_moves=most,
            movable=victims.to_move,
            feasible=Feasible(bits),
            worth=lambda step: pays(step, account, price=PRICE),
            step_aside=False,
        )
        leaving = [Leaving(victims.found[m.owner], m.profile, m.target) for m in found.moves]
        if not can_be_made([m.target for m in found.moves], [m.owner for m in found.moves], None, placing):
            return ()
        return leaving if _nodes_take_all(leaving, placing) else ()


def may_use(pod: Pod, gpus: int, placing: Placing) -> bool:
    """Whether one of these GPUs offers what the pod asks for, on a node that would take it."""
    try:
        wanted = placing.wanted(pod)
    except (Unserved, NotYet):
        return False  # It waits for something else than room.
    reach = placing.feasible(wanted).gpus & gpus
    offers = (o for request in wanted.requests for a in request.alternatives for o in a.offers)
    return any(
        reach & (placing.state.bits_of_geometry(o.geometry) if o.gpus is None else o.gpus) for o in offers
    )


def _nodes_take_all(leaving: Sequence[Leaving], placing: Placing) -> bool:
    """Whether the nodes have CPU and memory for all replacements, not only for each of them."""
    load = placing.load
    held = []
    try:
        for one in leaving:
            assert one.target is not None
            gpu, pod = placing.state.gpu(one.target[0]), one.candidate.pod
            assert gpu is not None
            if not load.fit(replace(pod, node="")).gpus >> gpu.number & 1:
                return False
            held.append((gpu.node, pod.requests))
            load.hold(*held[-1])
        return True
    finally:
        for node, requests in held:
            load.let_go(node, requests)


def _first_steps(
    leaving: Sequence[Leaving], moving: MovingRound, *, replacement_seconds: float
) -> Iterator[HoldTarget]:
    """What a compaction begins with: each new place is held."""
    until = moving.placing.snapshot.now + EVICT_SECONDS
    pods = [one.candidate.pod for one in leaving]
    record = CompactionRecord(tuple(RoomVictim(*pod.key, pod.uid) for pod in pods), until)
    for one in leaving:
        assert one.target is not None
        yield hold(
            one,
            one.target,
            moving,
            waiting_claim_uid="",
            deadline=until + replacement_seconds,
            compaction=record,
        )
