"""Values that follow from the geometry alone: what training starts from, and what it is compared with.

A value that follows the mix of requests is a number per profile and layout, [P, L]; the shares of the
requests are its weights.
"""

from __future__ import annotations

import numpy as np
from layouts import LayoutTables
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_CAPABILITY_WEIGHT = 1e-6


def unusable(tables: LayoutTables) -> Floats:
    """[P, L] all free slices where the profile fits nowhere, else 0: the measure of FGD."""
    return np.where(tables.fits, 0.0, tables.free[:, None]).T.astype(np.float64)


def capability(tables: LayoutTables) -> Floats:
    """[L] the legal placements left, as the small bonus that breaks ties in FGD."""
    found: Floats = -_CAPABILITY_WEIGHT * tables.capability.astype(np.float64)
    return found


def tenants(tables: LayoutTables) -> NDArray[np.int64]:
    """[L] number of instances."""
    return np.array([len(held) for held in tables.layouts])


def harmonic(tables: LayoutTables) -> Floats:
    """[L] H(n) = 1 + 1/2 + … + 1/n of the number of instances: the n-th tenant costs 1/n."""
    sums = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, 64))])
    found: Floats = sums[tenants(tables)]
    return found


def fgd(tables: LayoutTables) -> Floats:
    """[P, L] FGD on slices: F_slice - 1e-6 CC."""
    return unusable(tables) + capability(tables)


def fgd_h(tables: LayoutTables) -> Floats:
    """[P, L] FGD+H: F_slice - 1e-6 CC + H(n)."""
    return fgd(tables) + harmonic(tables)
