"""Why a pod waits, or where it is: the planner's own steps over one snapshot, told instead of carried out.

Those who are served before the pod are placed first, in the books only, so that the answer is the one that
the next round would give it. Pure: the same snapshot gives the same explanation. What a running scheduler has
in memory only (nodes that did not work out, the arrivals it has seen) is not part of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tessera.api import names
from tessera.api.reasons import Reason
from tessera.placement.policies import Policy
from tessera.placement.queue_order import QueueOrder
from tessera.placement.room_counts import most_slices
from tessera.scheduler.moving.ration import Unlimited
from tessera.scheduler.moving.steps import Moving
from tessera.scheduler.moving.words import NOT_NEEDED, leaving_words, move_words
from tessera.scheduler.objects import Claim, Key, Pod
from tessera.scheduler.placing import Placing
from tessera.scheduler.planner import GANG_TIME_LIMIT_SECONDS, Planner
from tessera.scheduler.refusals import NotYet, Unserved
from tessera.scheduler.snapshot import Snapshot
from tessera.scheduler.takeback import pinned_node
from tessera.scheduler.units import Unit, needs_us
from tessera.scheduler.wanted import Wanted


@dataclass(frozen=True, slots=True)
class Room:
    """What is free for one profile on the GPUs in reach: how many of them offer it, how many have room for
    it, and how many slices of it would fit in all.
    """

    profile: str
    gpus: int
    gpus_with_room: int
    slices: int


@dataclass(frozen=True, slots=True)
class Funnel:
    """From all nodes with GPUs to those GPUs on which the pod's slices fit."""

    nodes: int
    excluded: Mapping[str, int]
    nodes_passing: int
    gpus_offering: Mapping[str, int]
    """Model -> GPUs that offer what is asked for."""
    gpus_in_reach: int
    """Those of them on nodes that pass."""
    gpus_with_room: int
    """Those of them that have room for the widest request at this moment."""
    rooms: tuple[Room, ...]


@dataclass(frozen=True, slots=True)
class GangState:
    """The pod's gang: members that exist, the size that they name, and the seconds that are left."""

    name: str
    members: int
    size: int | None
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What `tessera explain pod` says. `state` is Placed, Fits (the next round places it), Waiting or
    NotOurs.
    """

    namespace: str
    pod: str
    state: str
    reason: str
    message: str
    node: str = ""
    devices: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    waits_seconds: float = 0.0
    served_before: int = 0
    funnel: Funnel | None = None
    gang: GangState | None = None
    reserves: tuple[str, ...] = ()
    move: str = NOT_NEEDED
    """The move under way for it, the one that would be made now, or why there is none."""
    told: Mapping[str, str] = field(default_factory=dict)
    """What the scheduler wrote on the claim, if anything: reason and message."""


def explain_pod(
    snapshot: Snapshot,
    key: Key,
    policy: Policy,
    *,
    grace_seconds: float = 30.0,
    gang_time_limit_seconds: float = GANG_TIME_LIMIT_SECONDS,
    namespace: str = names.SYSTEM_NAMESPACE,
    order: QueueOrder | None = None,
    note: str | None = None,
) -> Explanation:
    """Explain one pod of the snapshot; `namespace` and `order` are the scheduler's, `note` what it has noted
    on its Lease (None: unknown). Raises KeyError when the pod is not there.
    """
    pod = snapshot.pods[key]
    planner = Planner(
        policy,
        grace_seconds=grace_seconds,
        gang_time_limit_seconds=gang_time_limit_seconds,
        moving=Moving(policy, namespace=namespace, account=Unlimited),
        order=order,
    )
    if note is not None:
        planner.moving.remember(note)
    placing = planner.open_books(snapshot)
    if not needs_us(pod, snapshot):
        return _settled(pod, snapshot, planner)
    stuck = {t.pod.key for t in planner.given_up(snapshot) if t.pod is not None}
    units = planner.units(placing, stuck)
    at = next((i for i, unit in enumerate(units) if pod in unit.pods), None)
    if at is None:
        why = "its slices are being taken back" if key in stuck else "the pod is being deleted"
        return _answer(pod, "Waiting", Reason.TAKEN_BACK if key in stuck else Reason.DELETING, why, snapshot)
    for earlier in units[:at]:
        outcome = _try(earlier, planner, placing)
        if isinstance(outcome, Unserved):
            planner.keep_place(earlier, outcome, placing)
        placing.settle()
    return _explain_unit(units[at], pod, planner, placing, served_before=at, limit=gang_time_limit_seconds)


def _explain_unit(
    unit: Unit, pod: Pod, planner: Planner, placing: Placing, *, served_before: int, limit: float
) -> Explanation:
    snapshot = placing.snapshot
    waits = replace(
        _answer(pod, "Waiting", Reason.AWAITING_PLACEMENT, "", snapshot),
        waits_seconds=max(0.0, snapshot.now - pod.created),
        served_before=served_before,
        gang=_gang(unit, snapshot.now, limit),
        reserves=tuple(
            f"{partition}: {count} x {profile}, room for {room}"
            for partition, profile, count, room in planner.reserves.rooms()
        ),
    )
    try:
        wanted = placing.wanted(pod)
    except (Unserved, NotYet):
        pass  # the try below says why
    else:
        waits = replace(waits, funnel=_funnel(wanted, placing), asks=_label(wanted))
    gates = {gate for p in unit.pods for gate in p.gates if gate != names.PLACEMENT_GATE}
    if gates:
        return replace(waits, message=f"{', '.join(sorted(gates))} holds it; its owner must remove that gate")
    outcome = _try(unit, planner, placing)
    if isinstance(outcome, Unserved):
        text = f"gang {unit.gang}: {outcome.message}" if unit.gang else outcome.message
        move, reason = NOT_NEEDED, outcome.reason
        if reason == Reason.UNPLACEABLE:
            wanted = placing.wanted(pod)
            plan = planner.moving.find_plan(pod, wanted)
            move = move_words(pod, wanted, plan, planner.moving, placing)
            if planner.moving.room_of(pod) is not None:
                reason, text = Reason.MAKING_ROOM, f"room is being made for it; until then: {text}"
            if plan is None and (kept := planner.keep_place(unit, outcome, placing)):
                text = f"{kept}; {text}"
        return replace(waits, reason=str(reason), message=text, move=move)
    if outcome is None:
        text = "a claim of it is still being made, or is being allocated for another pod at this moment"
        return replace(waits, message=text)
    node, devices = outcome[pod.uid]
    text = f"it fits on node {node} now" if node else "nothing is missing; its gate is removed next"
    return replace(waits, state="Fits", message=text, node=node, devices=devices)


def _try(
    unit: Unit, planner: Planner, placing: Placing
) -> dict[str, tuple[str, tuple[str, ...]]] | Unserved | None:
    """Place a unit in the books: pod UID -> (node, devices); why not; or None when it is too early to say."""
    if any(pod.held_by_others for pod in unit.pods):
        return None
    try:
        placed = planner.place_unit(unit, placing)
    except Unserved as refused:
        return refused
    except NotYet:
        return None
    return {
        p.pod.uid: (placing.node_of(p), tuple(r.device for c in p.claims for r in c.results)) for p in placed
    }


def _settled(pod: Pod, snapshot: Snapshot, planner: Planner) -> Explanation:
    """A pod that wants nothing from us now."""
    held = [c for c in _claims(pod, snapshot) if c.holds_ours]
    if not held:
        message = "it has neither our gate nor a claim for one of our slices"
        return _answer(pod, "NotOurs", Reason.NOT_STARTED, message, snapshot)
    node = pod.node or pinned_node(held[0].allocated)
    devices = tuple(d for c in held if c.allocated is not None for _, d in c.allocated.devices)
    message = (
        f"it is bound to node {node}"
        if pod.node
        else f"its slices are allocated on node {node}; kube-scheduler has still to bind it"
    )
    if any(claim.key in planner.occupancy.gone for claim in held):
        message = f"{message}; that node does not offer its slice any more"
    if leaving := leaving_words(pod, planner.moving):
        message = f"{message}; {leaving}"
    return replace(_answer(pod, "Placed", Reason.PLACED, message, snapshot), node=node, devices=devices)


def _answer(pod: Pod, state: str, reason: str, message: str, snapshot: Snapshot) -> Explanation:
    told = next((c.message for c in _claims(pod, snapshot) if c.message), "")
    return Explanation(pod.key[0], pod.key[1], state, str(reason), message, told=_read_told(told))


def _read_told(text: str) -> dict[str, str]:
    try:
        read = json.loads(text) if text else {}
    except ValueError:
        return {"message": text}
    return {str(k): str(v) for k, v in read.items()} if isinstance(read, dict) else {"message": text}


def _claims(pod: Pod, snapshot: Snapshot) -> list[Claim]:
    found = (snapshot.claim_of(pod, entry.claim) for entry in pod.claims)
    return [claim for claim in found if claim is not None]


def _gang(unit: Unit, now: float, default: float) -> GangState | None:
    if not unit.gang:
        return None
    limit = unit.time_limit_seconds(default)
    sizes = {p.gang.size for p in unit.pods if p.gang is not None}
    left = None if limit is None else max(0.0, limit - unit.age_seconds(now))
    return GangState(unit.gang, len(unit.pods), sizes.pop() if len(sizes) == 1 else None, left)


def _label(wanted: Wanted) -> tuple[str, ...]:
    labels = []
    for request in wanted.requests:
        parts = [a.label if a.count == 1 else f"{a.count} x {a.label}" for a in request.alternatives]
        labels.append(" or ".join(dict.fromkeys(parts)))
    return tuple(labels)


def _funnel(wanted: Wanted, placing: Placing) -> Funnel:
    state = placing.state
    verdicts = placing.verdicts(wanted)
    passing = {name for name, verdict in verdicts.items() if verdict is None}
    offers = [o for request in wanted.requests for a in request.alternatives for o in a.offers]
    models: Counter[str] = Counter()
    in_reach = with_room = 0
    rooms: dict[str, list[int]] = {}
    for gpu in state.gpus:
        mine = [
            o for o in offers if o.geometry is gpu.geometry and (o.gpus is None or o.gpus >> gpu.number & 1)
        ]
        if not mine:
            continue
        models[gpu.geometry.model] += 1
        if gpu.node not in passing:
            continue
        in_reach += 1
        with_room += any(gpu.geometry.fits(gpu.key, i) for o in mine for i in o.placements)
        for profile in gpu.geometry.profiles:
            slices = most_slices(gpu.geometry, gpu.key, profile)
            room = rooms.setdefault(profile, [0, 0, 0])
            room[0] += 1
            room[1] += slices > 0
            room[2] += slices
    return Funnel(
        nodes=len(verdicts),
        excluded=dict(Counter(v for v in verdicts.values() if v is not None).most_common()),
        nodes_passing=len(passing),
        gpus_offering=dict(models.most_common()),
        gpus_in_reach=in_reach,
        gpus_with_room=with_room,
        rooms=tuple(Room(profile, *counts) for profile, counts in rooms.items()),
    )
