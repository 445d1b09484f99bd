"""New plans: for whom one is looked for, how often, and its first steps.

A search costs milliseconds, and on a full cluster hundreds of pods fit nowhere. So a round makes few
searches, and a question that found no plan is not asked again for some seconds. Questions for which no search
was left come first the next time. Nor is a plan made for the same claim twice within some seconds: one whose
first writes are refused would else be made anew in every round.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping

from tessera.api import names
from tessera.api.reasons import Reason
from tessera.placement.policies_value import ValuePolicy
from tessera.scheduler.actions import Action, HoldTarget, KeepRoom, Refuse
from tessera.scheduler.allocation import Result
from tessera.scheduler.barred import Only
from tessera.scheduler.move_records import (
    CompactionRecord,
    MoveRecord,
    PodRef,
    RoomRecord,
    RoomVictim,
    placeholder_name,
)
from tessera.scheduler.moving.plans import Leaving, Plan, PlanFinder, Question
from tessera.scheduler.moving.ration import Account
from tessera.scheduler.moving.rounds import MovingRound
from tessera.scheduler.moving.under_way import EVICT_SECONDS, never_preempts
from tessera.scheduler.objects import Claim, Pod
from tessera.scheduler.placing import Placing
from tessera.scheduler.wanted import Wanted

MOST_SEARCHES = 4
"""New plans that are looked for in one round."""
FRUITLESS_SECONDS = 5.0
"""For so long a question without a plan is not asked again, so that others get their turn."""
PLAN_AGAIN_SECONDS = 10.0
"""After a plan for a claim, no other one is made for it for so long."""
TURN_SECONDS = 60.0
"""For so long a search is kept free for a question that found none left; its pod is asked every 30 s."""


class Beginnings:
    """Looks for plans by the values of a policy."""

    def __init__(self, policy: ValuePolicy) -> None:
        self._finder = PlanFinder(policy)
        self._fruitless: dict[Hashable, float] = {}
        self._left_out: dict[Hashable, float] = {}
        self._begun: dict[str, float] = {}

    def find(
        self,
        pod: Pod,
        wanted: Wanted,
        moving: MovingRound,
        *,
        accounts: Mapping[str, Account],
        left_alone: Collection[Hashable],
        reluctant: Collection[Hashable] = (),
    ) -> Plan | None:
        """The plan that would be made for the pod now, or None."""
        placing, under_way = moving.placing, moving.under_way
        if not accounts or not asks_for_one_slice(wanted) or under_way.waits_for_cleaning(wanted.todo[0]):
            return None
        now = placing.snapshot.now
        self._forget(now)
        if wanted.todo[0].uid in self._begun:
            return None
        spared = {*left_alone, *under_way.identities()}
        asked = Question(pod, spared, reluctant, wanted.requests[0], placing.feasible(wanted), moving.busy)
        # A pod that nothing can be compared with asks for itself.
        shape = placing.question(wanted) or pod.uid
        plans = []
        for name in sorted(accounts.keys() - moving.in_flight):
            question = (name, pod.priority, never_preempts(pod), shape)
            if question in self._fruitless:
                continue
            account = accounts[name]
            if not account.movable_now(now) and not account.preemptable_now(now):
                continue
            if not self._has_turn(question, moving, now):
                continue
            moving.searches += 1
            plan = self._finder.moves(asked, name, account, placing)
            plan = plan or self._finder.preemption(asked, name, account, placing)
            if plan is not None:
                plans.append(plan)
            else:
                self._fruitless[question] = now + FRUITLESS_SECONDS
        # A plan of moves costs nobody a place.
        return min(plans, key=lambda p: (any(v.target is None for v in p.victims), p.price), default=None)

    def begun(self, claim: Claim, *, now: float) -> None:
        """A plan for the claim is carried out from now on."""
        self._begun[claim.uid] = now + PLAN_AGAIN_SECONDS

    def _has_turn(self, question: Hashable, moving: MovingRound, now: float) -> bool:
        """Whether a search is left for the question, beside those for questions that were left out before."""
        earlier = list(self._left_out)
        ahead = earlier.index(question) if question in self._left_out else len(earlier)
        if moving.searches + ahead < MOST_SEARCHES:
            self._left_out.pop(question, None)
            return True
        self._left_out[question] = now + TURN_SECONDS  # One that was left out before keeps its turn.
        return False

    def _forget(self, now: float) -> None:
        for book in (self._fruitless, self._left_out):
            for asked in [asked for asked, until in book.items() if until <= now]:
                del book[asked]
        for uid in [uid for uid, until in self._begun.items() if until <= now]:
            del self._begun[uid]


def first_steps(
    plan: Plan, pod: Pod, claim: Claim, moving: MovingRound, *, replacement_seconds: float
) -> Iterator[Action]:
    """What a plan begins with. What it takes is closed for the rest of the round."""
    placing = moving.placing
    now = placing.snapshot.now
    deadline = now + EVICT_SECONDS + replacement_seconds
    moving.planned.add(plan.partition)
    for leaving in plan.victims:
        if leaving.target is not None:
            yield hold(leaving, leaving.target, moving, waiting_claim_uid=claim.uid, deadline=deadline)
    pool, device = placing.device_at(plan.placement.gpu, plan.placement.index)
    victims = tuple(
        RoomVictim(*v.candidate.pod.key, v.candidate.pod.uid, v.target is None) for v in plan.victims
    )
    gpu = placing.state.gpu(plan.placement.gpu)
    assert gpu is not None
    moving.busy |= 1 << gpu.number
    moving.closed.close(claim.uid, Only(gpu.number, plan.placement.index))
    yield KeepRoom(claim, RoomRecord(pool, device, victims, now + EVICT_SECONDS, deadline))
    yield Refuse(pod, (claim,), Reason.MAKING_ROOM, describe(plan, placing))


def hold(
    leaving: Leaving,
    target: tuple[str, int],
    moving: MovingRound,
    *,
    waiting_claim_uid: str,
    deadline: float,
    compaction: CompactionRecord | None = None,
) -> HoldTarget:
    """The placeholder at the target of a victim. The target is closed for the rest of the round."""
    victim = leaving.candidate.pod
    name, index = target
    gpu = moving.placing.state.gpu(name)
    assert gpu is not None
    moving.busy |= 1 << gpu.number
    moving.closed.take(waiting_claim_uid, name, index)
    pool, device = moving.placing.device_at(name, index)
    job_uid, completion_index, pod_claim_name = leaving.candidate.identity
    record = MoveRecord(
        job_uid=job_uid,
        completion_index=completion_index,
        pod_claim_name=pod_claim_name,
        victim_pod=PodRef(*victim.key, victim.uid),
        waiting_claim_uid=waiting_claim_uid,
        deadline=deadline,
        job_name=leaving.candidate.job_name,
        requests=tuple(sorted(victim.requests.items())),
        compaction=compaction,
    )
    hold_name = placeholder_name(waiting_claim_uid=waiting_claim_uid, victim_pod_uid=victim.uid)
    moving.keep(hold_name, record, Only(gpu.number, index))
    return HoldTarget(
        hold_name,
        record,
        Result(names.CLAIM_REQUEST_NAME, pool, device, profile=leaving.profile),
        gpu.node,
    )


def describe(plan: Plan, placing: Placing) -> str:
    """A plan in words."""
    _, device = placing.device_at(plan.placement.gpu, plan.placement.index)
    parts = []
    for victim in plan.victims:
        who = "/".join(victim.candidate.pod.key)
        if victim.target is None:
            parts.append(f"pod {who} of lower priority is preempted")
        else:
            parts.append(f"pod {who} is moved to {placing.device_at(*victim.target)[1]}")
    return f"room for {device} on node {plan.placement.node} is made: {', '.join(parts)}"


def asks_for_one_slice(wanted: Wanted) -> bool:
    """Whether a plan could help: one pod, with one claim of one slice."""
    return (
        not wanted.pod.node
        and wanted.pod.gang is None
        and len(wanted.claims) == len(wanted.todo) == 1
        and len(wanted.requests) == 1
        and any(a.count == 1 for a in wanted.requests[0].alternatives)
    )
