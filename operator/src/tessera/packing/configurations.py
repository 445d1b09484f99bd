"""Which counts of profiles one GPU can hold, and which of them a plan ever needs.

A *configuration* is a multiset of profiles that some legal layout realises. Two facts keep programs small:
only the profiles that are asked for matter, and a configuration that another one contains is never needed,
because a place may stay empty. An H100 has 2318 layouts over its seven profiles, but a plan for 1g, 2g, 3g,
4g and 7g chooses among 12 configurations only.

A configuration has many layouts. The one kept is the one whose free room is worth most afterwards: longest
free run, then most placements that still fit, then lowest starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from tessera.placement.geometry import Geometry

Counts = tuple[int, ...]
"""How many instances of each profile, in the catalogue's order of profiles."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All configurations of one geometry over some profiles.

    `layouts` maps every configuration to its best layout (placement indices); `maximal` are those that no
    other contains.
    """

    geometry: Geometry
    profiles: tuple[str, ...]
    layouts: dict[Counts, tuple[int, ...]]
    maximal: tuple[Counts, ...]


@lru_cache(maxsize=256)
def catalogue(geometry: Geometry, profiles: tuple[str, ...]) -> Catalogue:
    """Every configuration over these profiles. A profile that the geometry lacks has the count 0 in all."""
    best: dict[Counts, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    position = {profile: at for at, profile in enumerate(profiles)}
    wanted = [i for i, p in enumerate(geometry.placements) if p.profile in position]

    def grow(first: int, key: int, counts: Counts, chosen: tuple[int, ...]) -> None:
        quality = _quality(geometry, key, chosen)
        if counts not in best or quality < best[counts][0]:
            best[counts] = (quality, chosen)
        for at in range(first, len(wanted)):
            index = wanted[at]
            if geometry.fits(key, index):
                more = _one_more(counts, position[geometry.placements[index].profile])
                grow(at + 1, geometry.with_placed(key, index), more, (*chosen, index))

    grow(0, 0, (0,) * len(profiles), ())
    return Catalogue(
        geometry=geometry,
        profiles=profiles,
        layouts={counts: layout for counts, (_, layout) in best.items()},
        maximal=tuple(sorted(_maximal(list(best)), reverse=True)),
    )


def _quality(geometry: Geometry, key: int, chosen: tuple[int, ...]) -> tuple[int, ...]:
    left = geometry.occupancy(key)
    return (-left.longest_run, -len(left.fitting), *(geometry.placements[i].start for i in chosen))


def _one_more(counts: Counts, at: int) -> Counts:
    return (*counts[:at], counts[at] + 1, *counts[at + 1 :])


def _maximal(configurations: Sequence[Counts]) -> list[Counts]:
    """Those to which nothing can be added: enough, since every part of a configuration is one as well."""
    known = set(configurations)
    return [c for c in configurations if not any(_one_more(c, at) in known for at in range(len(c)))]
