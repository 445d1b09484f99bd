"""What a static layout means for one GPU: the place of each slice, what leaves, what stands already. Pure.

MIG mode off is such a layout too: the GPU as a whole.

Starts that the partition does not name are chosen by the planner of `tessera gpu` (`tessera.relayout.plan`),
which keeps what claims hold where it can. A layout that was written to the GPUNode is kept as long as it is
what the partition asks: the planner could prefer another one as soon as the GPU's slices come and go.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache

from tessera.api.mig_partition import MIGPartitionSpec
from tessera.controllers.gpu_view import GPU, WHOLE, Held
from tessera.placement.geometry import Geometry
from tessera.relayout.errors import ImpossibleLayout
from tessera.relayout.plan import Place, Standing, Wish, plan_change


@dataclass(frozen=True, kw_only=True)
class GPUPlan:
    """A GPU and the layout it is to have."""

    gpu: GPU
    target: tuple[Place, ...]
    """By start."""

    @property
    def is_whole(self) -> bool:
        """Whether its MIG mode is to be off."""
        return self.target == WHOLE

    @property
    def demand(self) -> str:
        """What is wanted of the GPU, for the owner of a pod whose slice goes for it."""
        return "MIG mode is to be off" if self.is_whole else "the GPU is to have a fixed layout without it"

    @property
    def is_off(self) -> bool:
        """Whether its MIG mode is off; a reset that this may wait for is a person's."""
        return self.gpu.mig_mode in ("Disabled", "DisablePending")

    @property
    def asked(self) -> bool:
        """Whether the GPUNode's spec has this layout."""
        return self.gpu.layout is not None and self.gpu.layout.places == self.target

    @property
    def applied(self) -> bool:
        """Whether the agent says that it stands, and MIG mode is off where it is to be."""
        said = self.asked and self.gpu.layout is not None and self.gpu.layout.state == "Applied"
        return said and (self.is_off or not self.is_whole)

    @property
    def failed(self) -> bool:
        """Whether the agent says that it could not be had."""
        return self.asked and self.gpu.layout is not None and self.gpu.layout.state == "Failed"

    @cached_property
    def leaving(self) -> tuple[Held, ...]:
        """What claims hold and is not in the layout."""
        return tuple(held for held in self.gpu.held if held.place not in self.target)

    @property
    def diff(self) -> str:
        """What goes and what comes; empty when neither does."""
        there = {*self.gpu.instances, *(held.place for held in self.gpu.held)}
        goes = [f"- {place}" for place in sorted(there - set(self.target))]
        comes = [f"+ {place}" for place in self.target if place not in self.gpu.instances]
        if self.is_whole:
            comes = [] if self.is_off else ["MIG mode off"]
        return " ".join([*goes, *comes])


def wishes_of(spec: MIGPartitionSpec) -> tuple[Wish, ...] | None:
    """The slices that each GPU is to have, one by one; with MIG mode off the GPU as a whole. None: they are
    cut on demand.
    """
    if spec.mig_mode == "Disabled":
        return tuple(Wish(place.profile, place.start) for place in WHOLE)
    if spec.static is None:
        return None
    layout = spec.static.layout
    return tuple(Wish(item.profile, item.start) for item in layout for _ in range(item.count or 1))


@lru_cache(maxsize=4096)
def satisfies(places: tuple[Place, ...], wishes: tuple[Wish, ...]) -> bool:
    """Whether these are exactly the slices that are wished, each at its start where one is given."""
    left = Counter(places)
    left.subtract(Place(wish.start, wish.profile) for wish in wishes if wish.start is not None)
    if any(count < 0 for count in left.values()):
        return False
    anywhere = Counter(wish.profile for wish in wishes if wish.start is None)
    return Counter(place.profile for place in left.elements()) == anywhere


def plan_gpu(gpu: GPU, wishes: tuple[Wish, ...]) -> GPUPlan | None:
    """The plan; None while the agent has not said what the GPU can be cut into.

    Raises ImpossibleLayout.
    """
    if gpu.layout is not None and satisfies(gpu.layout.places, wishes):
        return GPUPlan(gpu=gpu, target=gpu.layout.places)
    if satisfies(WHOLE, wishes):
        return GPUPlan(gpu=gpu, target=WHOLE)
    if gpu.geometry is None:
        return None
    held = frozenset(slice.place for slice in gpu.held)
    standing = tuple((place, place in held) for place in sorted(held.union(gpu.instances)))
    return GPUPlan(gpu=gpu, target=_chosen(gpu.geometry, standing, wishes))


def why_impossible(geometry: Geometry, wishes: tuple[Wish, ...]) -> str:
    """Why no GPU of this geometry can have the layout, and what would fit; empty when it can."""
    try:
        _chosen(geometry, (), wishes)
    except ImpossibleLayout as error:
        return str(error)
    return ""


@lru_cache(maxsize=4096)
def _chosen(
    geometry: Geometry, standing: tuple[tuple[Place, bool], ...], wishes: tuple[Wish, ...]
) -> tuple[Place, ...]:
    """The starts. GPUs of a fleet are in few different states, so that most plans are made once."""
    # A plan asks for neither id nor size of what is there.
    there = [
        Standing(profile=place.profile, profile_id=0, start=place.start, size=0, held=held)
        for place, held in standing
    ]
    return plan_change(geometry, there, wishes).layout
