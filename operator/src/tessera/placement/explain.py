"""Why nothing fits, in the user's terms: what was asked, what is free, and what would make it fit.

Runs only when a request could not be placed. It looks at the layouts that GPUs have, not at every GPU, so
that a hundred requests that wait for room cost little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

from tessera.placement.gpu_sets import Filter, filter_of, filter_of_given
from tessera.placement.layouts import LayoutTable
from tessera.placement.request import Alternative, Feasible, Offer, Request, Unplaceable
from tessera.placement.room_counts import room_by_profile
from tessera.placement.state import ClusterState, Gpu

UNKNOWN_PROFILE = "UnknownProfile"
NO_GPUS = "NoGPUs"
NO_NODE = "NoFeasibleNode"
NO_ROOM = "NoRoom"

_LARGEST = "the largest placement that still fits has"
_MOST_ROOMS = 12
"""Profiles that one message names; an event holds 1,024 bytes."""


def explain(state: ClusterState, requests: Sequence[Request], *, feasible: Feasible | None) -> Unplaceable:
    """The first cause that holds: there is no GPU, the profile is not offered, no node passes the filters,
    or no legal place is free.
    """
    wanted = [alternative for request in requests for alternative in request.alternatives]
    label = " + ".join(_label(request) for request in requests)
    allowed = state.all_bits() if feasible is None else feasible.gpus
    if not state.gpus:
        return Unplaceable(
            reason=NO_GPUS,
            profile=label,
            message="no GPU is published in this cluster",
            remedy="check that the agent runs on the GPU nodes; `kubectl get gpunodes` says why one offers "
            "nothing",
        )
    for request in requests:
        if not any(offer.placements for a in request.alternatives for offer in a.offers):
            return _not_offered(state, request)
    passing = _passing(state, feasible)
    reachable = allowed & _offered_on(state, wanted)
    if not reachable:
        free, largest = _room(state, allowed)
        return Unplaceable(
            reason=NO_NODE,
            profile=label,
            message=f"no node with a GPU that offers {label} passes the node filters: {passing}",
            remedy="free CPU and memory there, or change the pod's requests, tolerations or node selection",
            free_slices=free,
            largest_room=largest,
        )
    return _no_room(state, requests, label, reachable, passing)


def _not_offered(state: ClusterState, request: Request) -> Unplaceable:
    # Of all GPUs: whatever the node filters leave, none of them has the profile.
    every = state.all_bits()
    free, largest = _room(state, every)
    offered = sorted({p for g in state.geometries() for p in g.profiles})
    room = f"{_on_gpus(free, every.bit_count(), 'memory slice')}, {_LARGEST} {largest}"
    if _label(request) in offered:
        return Unplaceable(
            reason=NO_NODE,
            profile=_label(request),
            message=f"no GPU with {_label(request)} is open to this request: its selectors or the taints of "
            f"the devices bar them all ({room})",
            remedy="`kubectl get gpunodes` says which are unhealthy; wait for them, or widen the selectors",
            free_slices=free,
            largest_room=largest,
        )
    return Unplaceable(
        reason=UNKNOWN_PROFILE,
        profile=_label(request),
        message=f"profile {_label(request)} is not offered by any GPU ({room})",
        remedy=f"ask for one of those that are: {', '.join(offered)}",
        free_slices=free,
        largest_room=largest,
    )


def _no_room(
    state: ClusterState, requests: Sequence[Request], label: str, reachable: int, passing: str
) -> Unplaceable:
    needed = sum(min((_slices(a) for a in r.alternatives if a.offers), default=0) for r in requests)
    free, largest = _room(state, reachable)
    message = (
        f"no GPU has room for {label}: it needs {needed} free memory slices at a legal start, "
        f"{_on_gpus(free, reachable.bit_count())} ({_models(state, reachable)}), {_LARGEST} {largest}; "
        f"room: {_room_words(state, reachable)}; {passing}"
    )
    return Unplaceable(
        reason=NO_ROOM,
        profile=label,
        message=message,
        remedy=_remedy(state, requests, label, reachable),
        free_slices=free,
        largest_room=largest,
        fits_in_aggregate=free >= needed,
    )


def _remedy(state: ClusterState, requests: Sequence[Request], label: str, reachable: int) -> str:
    """Name one slice whose release would make room, when a single request of a single slice is asked for."""
    if len(requests) == 1:
        victim = _smallest_victim(state, requests[0].alternatives, reachable)
        if victim is not None:
            return f"freeing {victim[1]} on {victim[0].name} would make room"
    return f"wait for running work to end, ask for less than {label}, or add a GPU"


def _smallest_victim(
    state: ClusterState, alternatives: tuple[Alternative, ...], reachable: int
) -> tuple[Gpu, Hashable] | None:
    """The owner of the narrowest placement without which one slice would fit; the lowest GPU wins ties."""
    best: tuple[int, int, int] | None = None
    for alternative in alternatives:
        if alternative.count != 1:
            continue
        for offer in alternative.offers:
            for found in _victims(state, offer, filter_of_given(reachable, offer.gpus)):
                if best is None or found < best:
                    best = found
    if best is None:
        return None
    _, number, index = best
    gpu = state.gpus[number]
    return gpu, next(owner for owner, held in gpu.held.items() if held == index)


def _victims(state: ClusterState, offer: Offer, within: Filter | None) -> list[tuple[int, int, int]]:
    """What could be freed for an offer, per layout that GPUs have: (width, lowest such GPU, placement)."""
    placements = offer.geometry.placements
    victims: list[tuple[int, int, int]] = []
    for layout, bucket in state.layouts(offer.geometry):
        table = state.pools[offer.geometry].table
        helping = [
            index
            for index in dict.fromkeys(table.indices[layout])
            if _fits_any(table, table.after_released(layout, index), offer)
        ]
        number = bucket.lowest_from(within=within) if helping else None
        if number is not None:
            order = list(state.gpus[number].held.values())
            index = min(helping, key=lambda i: (placements[i].width, order.index(i)))
            victims.append((placements[index].width, number, index))
    return victims


def _fits_any(table: LayoutTable, layout: int, offer: Offer) -> bool:
    return any(table.fits(layout, index) for index in offer.placements)


def _offered_on(state: ClusterState, alternatives: list[Alternative]) -> int:
    bits = 0
    for alternative in alternatives:
        for offer in alternative.offers:
            bits |= offer.gpus_in(state)
    return bits


def _room(state: ClusterState, allowed: int) -> tuple[int, int]:
    """Free memory slices in all, and the widest placement that fits on one GPU."""
    free = 0
    largest = 0
    within = None if allowed == state.all_bits() else filter_of(allowed)
    for geometry in state.geometries():
        for layout, bucket in state.layouts(geometry):
            count = bucket.count(within)
            if count:
                table = state.pools[geometry].table
                free += count * table.free(layout)
                largest = max([largest, *(geometry.placements[i].width for i in table.fitting(layout))])
    return free, largest


def _on_gpus(free: int, gpus: int, noun: str = "") -> str:
    counted = f"{free} {noun}{'s' if free != 1 else ''}" if noun else str(free)
    return f"{counted} {'are' if free != 1 else 'is'} free on {gpus} GPU{'s' if gpus != 1 else ''}"


def _slices(alternative: Alternative) -> int:
    widths = [o.geometry.placements[i].width for o in alternative.offers for i in o.placements]
    return alternative.count * min(widths, default=0)


def _label(request: Request) -> str:
    parts = [a.label if a.count == 1 else f"{a.count} x {a.label}" for a in request.alternatives]
    return " or ".join(dict.fromkeys(parts))


def _models(state: ClusterState, gpus: int) -> str:
    counts: Counter[str] = Counter()
    for geometry in state.geometries():
        counts[geometry.model] += (gpus & state.bits_of_geometry(geometry)).bit_count()
    return ", ".join(f"{count} {model}" for model, count in counts.items() if count)


def _room_words(state: ClusterState, gpus: int) -> str:
    rooms = [f"{profile} {slices}" for profile, slices in room_by_profile(state, gpus).items()]
    more = ["…"] if len(rooms) > _MOST_ROOMS else []
    return ", ".join([*rooms[:_MOST_ROOMS], *more]) or "none"


def _passing(state: ClusterState, feasible: Feasible | None) -> str:
    """How many of the nodes with GPUs pass the node filters, and what excluded the others."""
    nodes = len(list(state.nodes()))
    excluded = sorted(feasible.excluded.items()) if feasible is not None else []
    passing = f"{nodes - sum(count for _, count in excluded)} of {nodes} nodes pass"
    parts = [f"{filter_name} excluded {count}" for filter_name, count in excluded]
    return f"{passing} ({', '.join(parts)})" if parts else passing
