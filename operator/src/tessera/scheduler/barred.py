"""Choices of a pod that a search has been through, taken out of what it may be given next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tessera.placement.geometry import Geometry
from tessera.placement.request import Constraint, Offer, Placement, Request

Choice = frozenset[tuple[str, int]]
"""(GPU, placement index) of every slice of a pod."""


@dataclass
class Barred:
    """`alike` are GPUs (as bits) on which a placement of this index is as good or bad as one that was tried;
    `choices` are whole answers for pods with several slices.
    """

    alike: list[tuple[int, int]] = field(default_factory=list)
    choices: set[Choice] = field(default_factory=set)

    def remove_from(self, requests: Sequence[Request]) -> tuple[list[Request], list[Constraint]]:
        """The requests without what is barred, and the constraint that says the rest."""
        if self.choices:
            return list(requests), [self._is_new]
        if not self.alike:
            return list(requests), []
        narrowed = tuple(
            replace(a, offers=tuple(part for offer in a.offers for part in self._narrow(offer)))
            for a in requests[0].alternatives
        )
        return [replace(requests[0], alternatives=narrowed)], []

    def _is_new(self, placements: Sequence[Placement]) -> bool:
        return frozenset((p.gpu, p.index) for p in placements) not in self.choices

    def _narrow(self, offer: Offer) -> Iterable[Offer]:
        parts = [offer]
        for bits, index in self.alike:
            parts = [piece for part in parts for piece in _without(part, bits, index)]
        return parts


@dataclass(frozen=True, slots=True)
class Only:
    """One place, which is kept for the pod: nothing else will do."""

    gpu: int
    index: int

    def narrow(self, request: Request, geometry: Geometry) -> Request:
        """The request without everything else; the geometry is that of the GPU."""
        bit = 1 << self.gpu
        return replace(
            request,
            alternatives=tuple(
                replace(
                    a,
                    offers=tuple(
                        Offer(offer.geometry, (self.index,), bit)
                        for offer in a.offers
                        if offer.geometry is geometry
                        and self.index in offer.placements
                        and (offer.gpus is None or offer.gpus & bit)
                    ),
                )
                for a in request.alternatives
            ),
        )


def _without(offer: Offer, bits: int, index: int) -> Iterable[Offer]:
    """The offer but for one placement on the GPUs in `bits`."""
    if index not in offer.placements or offer.gpus is None or not offer.gpus & bits:
        return (offer,)
    left = tuple(i for i in offer.placements if i != index)
    pieces = (replace(offer, gpus=offer.gpus & ~bits), Offer(offer.geometry, left, offer.gpus & bits))
    return [piece for piece in pieces if piece.gpus and piece.placements]
