"""What a user reads about moves: the one under way, the plan that would be made, or why there is none."""

from __future__ import annotations

from datetime import UTC, datetime

from tessera.api import names
from tessera.scheduler.moving.beginnings import asks_for_one_slice, describe
from tessera.scheduler.moving.plans import Plan
from tessera.scheduler.moving.steps import Moving
from tessera.scheduler.moving.under_way import Room
from tessera.scheduler.moving.victims import candidate_of
from tessera.scheduler.objects import Pod
from tessera.scheduler.placing import Placing
from tessera.scheduler.wanted import Wanted

NOT_NEEDED = "none is needed"


def move_words(pod: Pod, wanted: Wanted, plan: Plan | None, moving: Moving, placing: Placing) -> str:
    """For a pod that fits nowhere at this moment, with the plan that would be made for it, if any."""
    room = moving.room_of(pod)
    if room is not None:
        return _room_words(room)
    if plan is not None:
        return f"{describe(plan, placing)}, {_ration(plan, moving, placing)}"
    bits = 0
    for name in _partitions_in_reach(wanted, placing):
        bits |= placing.reserves.movable[name][0]
    if bits and asks_for_one_slice(wanted) and not _movable_on(bits, placing):
        return f"none: no Indexed Job's pod on these GPUs is annotated {names.MOVABLE_ANNOTATION}"
    return no_move_words(wanted, moving, placing)


def no_move_words(wanted: Wanted, moving: Moving, placing: Placing) -> str:
    """Why there is no plan of moves for a pod that fits nowhere, when none was found. Searches nothing."""
    movable = placing.reserves.movable
    if not movable:
        return "none: no MIGPartition allows moves (spec.dynamic.moves)"
    if not asks_for_one_slice(wanted):
        return "none: only a pod with one claim of one slice, outside gangs, is helped by moves"
    if moving.under_way.waits_for_cleaning(wanted.todo[0]):
        return "none now: what is left of an earlier plan is being cleaned up"
    here = _partitions_in_reach(wanted, placing)
    if not here:
        return "none: no GPU in reach belongs to a MIGPartition that allows moves (spec.dynamic.moves)"
    busy = sorted(here & moving.in_flight)
    if busy:
        return f"none now: MIGPartition {busy[0]} moves pods for another reason at this moment"
    if not any(moving.may_begin(name) for name in here):
        return f"none now: the ration of MIGPartition {min(here)} is used up (spec.dynamic.moves)"
    most = max(movable[name][1].most_victims for name in here)
    many = "moving one pod" if most == 1 else f"moving up to {most} pods"
    return f"none: {many} makes no room for it; what is in its way may not be moved or fits nowhere else"


def _partitions_in_reach(wanted: Wanted, placing: Placing) -> set[str]:
    reach = placing.feasible(wanted).gpus
    return {name for name, (bits, _) in placing.reserves.movable.items() if bits & reach}


def leaving_words(pod: Pod, moving: Moving) -> str:
    """For a pod that has its slice: whether it is to leave it, and for what; "" when not."""
    for departure in moving.under_way.going_on:
        if any(victim.uid == pod.uid for victim in departure.record.victims):
            return (
                f"it is to leave its slice for pod {'/'.join(departure.pod.key)}"
                if isinstance(departure, Room)
                else "it is to leave its slice, so that its GPU becomes empty"
            )
    return ""


def _room_words(room: Room) -> str:
    stay = ", ".join("/".join(pod.key) for _, pod in room.staying)
    of = len(room.record.victims)
    left = of - len(room.staying)
    until = datetime.fromtimestamp(
        room.record.evict_until if room.staying else room.record.deadline, UTC
    ).strftime("%H:%M:%S UTC")
    rest = f"{stay} still to leave, asked until {until}" if stay else f"kept until {until}"
    return f"under way: room for {room.record.device}, {left} of {of} pods left; {rest}"


def _ration(plan: Plan, moving: Moving, placing: Placing) -> str:
    rule = placing.reserves.movable[plan.partition][1]
    hour = f"{rule.per_hour} an hour"
    if moving.knows_the_hour:
        rations = {ration.partition: ration for ration in moving.rations(now=placing.snapshot.now)}
        hour = f"{hour}, {rations[plan.partition].left_this_hour} of them left"
    if any(victim.target is None for victim in plan.victims):
        return f"if the ration allows it ({hour})"
    return f"if the ration allows it ({rule.per_100} per 100 placements; {hour})"


def _movable_on(bits: int, placing: Placing) -> bool:
    return any(
        candidate_of(owner, placing.snapshot) is not None
        for gpu in placing.state.gpus
        if bits >> gpu.number & 1
        for owner in gpu.held
    )
