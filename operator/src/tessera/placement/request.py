"""What is asked for, and what is answered: plain values between the engine and its callers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tessera.placement.geometry import Geometry, LegalPlacement
from tessera.placement.state import ClusterState, Gpu


@dataclass(frozen=True, slots=True)
class Offer:
    """Placements (indices into the geometry) that would do, on the GPUs in the bit set `gpus` (None: on all
    of that geometry).
    """

    geometry: Geometry
    placements: tuple[int, ...]
    gpus: int | None = None

    def holds_on(self, gpu: Gpu) -> bool:
        """Whether it is made for this GPU."""
        return gpu.geometry is self.geometry and (self.gpus is None or bool(self.gpus >> gpu.number & 1))

    def gpus_in(self, state: ClusterState) -> int:
        """The GPUs of a state that it is made for, as a bit set."""
        of_geometry = state.bits_of_geometry(self.geometry)
        return of_geometry if self.gpus is None else of_geometry & self.gpus


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to satisfy a request: `count` slices, each out of these offers. `label` is how messages call
    it (a profile).
    """

    name: str
    label: str
    offers: tuple[Offer, ...]
    count: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """One request: the first alternative that can be placed is taken."""

    name: str
    alternatives: tuple[Alternative, ...]


def smallest_slices(request: Request) -> tuple[LegalPlacement, ...]:
    """The smallest placement that would do for each slice of the first alternative; none where no GPU offers
    one.
    """
    first = request.alternatives[0]
    admitted = [offer.geometry.placements[i] for offer in first.offers for i in offer.placements]
    return (min(admitted, key=lambda p: (p.width, p.compute, p.profile)),) * first.count if admitted else ()


@dataclass(frozen=True, slots=True)
class Placement:
    """The answer for one slice: `legal` on GPU `gpu`, for alternative `alternative` of request `request`."""

    request: str
    alternative: str
    gpu: str
    node: str
    index: int
    legal: LegalPlacement


def placement_on(gpu: Gpu, index: int, *, request: str, alternative: str) -> Placement:
    """The answer that gives this placement of this GPU."""
    return Placement(
        request=request,
        alternative=alternative,
        gpu=gpu.name,
        node=gpu.node,
        index=index,
        legal=gpu.geometry.placements[index],
    )


@dataclass(frozen=True, slots=True)
class Unplaceable:
    """Why a request cannot be placed now, in numbers and in words.

    `free_slices` is summed over the GPUs that the node filters leave; `largest_room` is the widest
    placement of any profile that still fits on one of them. `fits_in_aggregate` says that enough slices are
    free, only not at one legal place.
    """

    reason: str
    profile: str
    message: str
    remedy: str
    free_slices: int = 0
    largest_room: int = 0
    fits_in_aggregate: bool = False

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


@dataclass(frozen=True, slots=True)
class Feasible:
    """The GPUs that pass the node filters, and how many nodes each filter excluded (for the message)."""

    gpus: int
    excluded: dict[str, int] = field(default_factory=dict)


Constraint = Callable[[Sequence[Placement]], bool]
"""Says whether a partial joint placement may still become a valid one (for example: all on one GPU)."""


def request_for_profile(state: ClusterState, profile: str, *, name: str = "slice", count: int = 1) -> Request:
    """The plain request: `count` slices of one profile, on any GPU that offers it."""
    offers = tuple(Offer(g, found) for g in state.geometries() if (found := g.placements_of(profile)))
    return Request(name, (Alternative(name=name, label=profile, offers=offers, count=count),))
