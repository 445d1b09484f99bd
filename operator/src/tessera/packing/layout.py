"""From the solver's counts to GPUs with tiles at starts.

A program says how many GPUs get each maximal configuration. Those have places that nobody asked for. They are
taken away from as few GPUs as possible, so that free room stays together; then each GPU gets the best layout
of what it holds, and its tiles get their contents. GPUs that end up alike are one group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tessera.packing.boards import Pool
from tessera.packing.configurations import Catalogue, Counts
from tessera.packing.plan import Group, Tile
from tessera.packing.services import Use

Holding = Counter[tuple[int, Counts]]
"""(number of the pool, counts of profiles) -> how many GPUs hold them."""


@dataclass(frozen=True, slots=True)
class Column:
    """One way to cut a GPU of a pool (number in the list of pools)."""

    pool: int
    counts: Counts


def columns_of(catalogues: Iterable[Catalogue]) -> list[Column]:
    """The maximal configurations of all pools; the empty one is left out."""
    return [
        Column(number, counts)
        for number, known in enumerate(catalogues)
        for counts in known.maximal
        if any(counts)
    ]


def trimmed(columns: Sequence[Column], values: Sequence[int], demand: Sequence[int]) -> Holding:
    """How many GPUs hold which counts, after what is over the demand (by profile) was taken away.

    GPUs of rare configurations lose first, and one GPU loses all it can before the next.
    """
    used = sorted((value, at) for at, value in enumerate(values) if value)
    surplus = [
        sum(value * columns[at].counts[row] for value, at in used) - wanted
        for row, wanted in enumerate(demand)
    ]
    holding: Holding = Counter()
    for value, at in used:
        pool, counts = columns[at].pool, columns[at].counts
        left = value
        while left:
            taken = tuple(min(count, over) for count, over in zip(counts, surplus, strict=True))
            if not any(taken):
                holding[pool, counts] += left
                break
            # As many GPUs as can lose exactly this at once.
            times = min(left, *(over // t for t, over in zip(taken, surplus, strict=True) if t))
            surplus = [over - times * t for t, over in zip(taken, surplus, strict=True)]
            rest = tuple(count - t for count, t in zip(counts, taken, strict=True))
            if any(rest):
                holding[pool, rest] += times
            left -= times
    return holding


def arranged(
    pools: Sequence[Pool],
    catalogues: Sequence[Catalogue],
    holding: Holding,
    contents: Mapping[tuple[str, str], Counter[Use]] | None = None,
) -> tuple[Group, ...]:
    """The layouts, by model, most frequent first. `contents` says what the tiles of a model and profile hold;
    there must be as many contents as tiles.
    """
    left = {kind: Counter(found) for kind, found in (contents or {}).items()}
    groups: list[Group] = []
    for (number, counts), count in sorted(holding.items(), key=lambda item: (-item[1], item[0])):
        known = catalogues[number]
        legal = sorted((known.geometry.placements[i] for i in known.layouts[counts]), key=lambda p: p.start)
        while count:
            tiles, times = _filled(
                pools[number].name, [(p.start, p.profile) for p in legal], left, count, plain=contents is None
            )
            groups.append(Group(pools[number].name, times, tiles))
            count -= times
    return tuple(sorted(groups, key=lambda g: (g.model, -g.count, [(t.start, t.profile) for t in g.tiles])))


def _filled(
    model: str,
    places: Sequence[tuple[int, str]],
    left: dict[tuple[str, str], Counter[Use]],
    most: int,
    *,
    plain: bool,
) -> tuple[tuple[Tile, ...], int]:
    """The tiles of one GPU with the most frequent contents that are left, and how many GPUs can be equal."""
    if plain:
        return tuple(Tile(start, profile) for start, profile in places), most
    chosen: Counter[tuple[str, Use]] = Counter()
    tiles = []
    for start, profile in places:
        pile = left[model, profile]
        use = max(pile, key=lambda known: (pile[known] - chosen[profile, known], str(known)))
        chosen[profile, use] += 1
        tiles.append(Tile(start, profile, use))
    times = min(most, *(left[model, profile][use] // n for (profile, use), n in chosen.items()))
    for (profile, use), n in chosen.items():
        left[model, profile][use] -= times * n
    return tuple(tiles), times
