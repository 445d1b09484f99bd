"""What a layout is judged by: terms that follow from the geometry alone.

Each *profile term* is a number per layout and profile; weighted by the shares w of the arrivals it becomes a number per
layout, so that a value made of such terms follows the arrivals continuously. *Plain terms* do not depend on the
arrivals.

`unusable(q)` looks ahead: if each instance were still there with chance q, independently, and nothing new came, how many
free slices could a request of the profile not use, on average? q = 1 is F_slice of FGD, the present; a smaller q
tells what the layout will be good for when some of its tenants have left.
"""

from __future__ import annotations

import numpy as np
from layouts import LayoutTables
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def unusable_now(tables: LayoutTables) -> Floats:
    """[L, P] all free slices where the profile fits nowhere, else 0 (the FGD measure)."""
    return np.where(tables.fits, 0.0, tables.free[:, None]).astype(np.float64)


def stranded_now(tables: LayoutTables) -> Floats:
    """[L, P] free slices that stay free when as many instances of the profile as possible are added."""
    left = np.repeat(tables.free[:, None].astype(np.float64), tables.profiles, axis=1)
    # A layout's followers have more instances, hence higher numbers.
    for at in reversed(range(len(tables.layouts))):
        for index, after in enumerate(tables.placed[at]):
            if after >= 0:
                p = tables.profile_of[index]
                left[at, p] = min(left[at, p], left[after, p])
    return left


def expected(now: Floats, tables: LayoutTables, *, stay: float) -> Floats:
    """[L, …] the mean of `now` when each instance stays with this chance, independently."""
    number = {held: at for at, held in enumerate(tables.layouts)}
    result = np.zeros_like(now)
    for at, held in enumerate(tables.layouts):
        members = sorted(held)
        for subset in range(1 << len(members)):
            kept = frozenset(m for bit, m in enumerate(members) if subset >> bit & 1)
            gone = len(members) - len(kept)
            result[at] += stay ** len(kept) * (1 - stay) ** gone * now[number[kept]]
    return result


def tenants(tables: LayoutTables) -> NDArray[np.int64]:
    """[L] number of instances."""
    return np.array([len(held) for held in tables.layouts])


def harmonic(tables: LayoutTables) -> Floats:
    """[L] H(n) = 1 + 1/2 + … + 1/n of the number of instances: the n-th tenant costs 1/n."""
    sums = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, 64))])
    found: Floats = sums[tenants(tables)]
    return found


def fgd(tables: LayoutTables, weights: tuple[float, ...]) -> Floats:
    """[L] FGD on slices: F_slice - 1e-6 CC."""
    value: Floats = unusable_now(tables) @ np.array(weights) - 1e-6 * tables.capability
    return value


def fgd_h(tables: LayoutTables, weights: tuple[float, ...]) -> Floats:
    """[L] FGD+H: F_slice - 1e-6 CC + H(n)."""
    return fgd(tables, weights) + harmonic(tables)
