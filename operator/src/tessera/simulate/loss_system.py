"""Runs one workload under one policy: every request is placed at once, by moves if they are allowed, or lost.

The loop decides and notes where each request went, nothing else; all figures are counted from those notes
afterwards. So its processor time is that of the decisions, and the notes are the same ones that the log
writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from tessera.placement.engine import Engine
from tessera.placement.moves import Move
from tessera.placement.policies import Policy
from tessera.placement.request import request_for_profile
from tessera.simulate.cluster import Cluster
from tessera.simulate.costs import MoveCosts
from tessera.simulate.mover import Mover, MoveRules
from tessera.simulate.workload import Workload

_EVENTS_PER_STEP = 20_000
"""Events between two calls of the progress function."""

Place = tuple[int, int]
"""The number of a GPU, and the index of a placement in its geometry."""


@dataclass(frozen=True, slots=True)
class Relocation:
    """Request `victim` was moved to `place`, to make room for another or to empty a GPU."""

    victim: int
    place: Place


@dataclass
class Outcome:
    """What was decided: `placed[i]` is the first place of request i, None when it was rejected;
    `relocations[i]` the moves that made room for it, in their order, and `compactions[i]` those that emptied
    GPUs before it was decided.

    `counted_seconds` is the processor time of the decisions from the first counted arrival on, departures
    included, and `counted_arrivals` how many they were.
    """

    placed: list[Place | None]
    relocations: dict[int, tuple[Relocation, ...]] = field(default_factory=dict)
    compactions: dict[int, tuple[Relocation, ...]] = field(default_factory=dict)
    counted_seconds: float = 0.0
    counted_arrivals: int = 0

    @property
    def decisions_per_second(self) -> float:
        """Counted arrivals per second of processor time; their departures take part of it."""
        return self.counted_arrivals / self.counted_seconds if self.counted_seconds else 0.0


def run(
    workload: Workload,
    cluster: Cluster,
    policy: Policy,
    *,
    rules: MoveRules,
    costs: MoveCosts,
    progress: Callable[[int], None] = lambda events: None,
) -> Outcome:
    """Decide every request of the workload in turn. `progress` is told how many events have been done since.

    Raises BadSimulationInput when moves are asked of a policy that has no values to plan them by.
    """
    mover = None
    if rules.allow_moves:
        mover = Mover(policy, rules, workload=workload, cluster=cluster, costs=costs)
    loop = _Loop(workload, cluster, policy, mover)
    split = workload.first_counted_event()
    for first, last, counted in ((0, split, False), (split, len(workload.events), True)):
        for begin in range(first, last, _EVENTS_PER_STEP):
            end = min(begin + _EVENTS_PER_STEP, last)
            started = time.thread_time()
            loop.advance(begin, end)
            if counted:
                loop.outcome.counted_seconds += time.thread_time() - started
            progress(end - begin)
    loop.outcome.counted_arrivals = len(workload) - workload.counted_from
    return loop.outcome


class _Loop:
    """The state between two steps of the loop."""

    def __init__(self, workload: Workload, cluster: Cluster, policy: Policy, mover: Mover | None) -> None:
        self.outcome = Outcome(placed=[None] * len(workload))
        self._workload = workload
        self._policy = policy
        self._mover = mover
        self._engine = Engine(policy)
        self._state = cluster.new_state()
        self._requests = [request_for_profile(self._state, profile) for profile in workload.profiles]

    def advance(self, begin: int, end: int) -> None:
        """The events from `begin` to before `end`."""
        state, placed, mover = self._state, self.outcome.placed, self._mover
        profiles, wanted = self._workload.profiles, self._workload.wanted
        record, choose = self._policy.record, self._engine.choose
        occupy, release = state.occupy_at, state.release
        for event in self._workload.events[begin:end]:
            if event >= 0:
                profile = profiles[wanted[event]]
                record(profile)
                if mover is not None:
                    self._compact(event, mover)
                place = choose(state, profile)
                if place is not None:
                    occupy(place[0], place[1], event)
                    placed[event] = place
                    if mover is not None:
                        mover.accepted()
                elif mover is not None and self._make_room(event, mover):
                    mover.accepted()
            elif placed[~event] is not None:
                release(~event)

    def _compact(self, event: int, mover: Mover) -> None:
        """Empty GPUs, if it is time."""
        moves = mover.compaction(self._state, event)
        if moves:
            # One after the other: each target is free when its turn comes.
            self.outcome.compactions[event] = tuple(self._relocate(move) for move in moves)

    def _relocate(self, move: Move) -> Relocation:
        victim, target = cast(int, move.owner), (int(move.target[0]), move.target[1])
        if self._state.holds(victim) is not None:
            self._state.release(victim)
        self._state.occupy_at(*target, victim)
        return Relocation(victim, target)

    def _make_room(self, event: int, mover: Mover) -> bool:
        """Place a request by moves, if there is a plan that may be carried out; whether there was one."""
        state = self._state
        plan = mover.plan(state, event, self._requests[self._workload.wanted[event]])
        if plan is None:
            return False
        for move in plan.moves:
            state.release(move.owner)
        place = (int(plan.placement.gpu), plan.placement.index)
        state.occupy_at(*place, event)
        self.outcome.placed[event] = place
        self.outcome.relocations[event] = tuple(self._relocate(move) for move in plan.moves)
        return True
