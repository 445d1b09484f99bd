"""Means over seeds, with the 95 % confidence interval of Student's t.

A run is a mapping of keys to numbers, or to further mappings of numbers (per profile). The summary has the
same keys. One run has no spread: its half-widths are None, never 0, which would claim certainty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Summary = dict[str, Any]
"""key -> number, None, or a nested mapping of the same form."""

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom (any table of statistics).
_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL_975 = 1.959964


def t_quantile_975(degrees: int) -> float:
    """The 0.975 quantile of Student's t, to three digits.

    Above 30 degrees of freedom by the Cornish-Fisher expansion around the normal quantile (Abramowitz and
    Stegun 26.7.5), whose error there is below 0.0005.
    """
    if degrees < 1:
        raise ValueError(f"{degrees} degrees of freedom: at least 1 is needed")
    if degrees <= len(_T_975):
        return _T_975[degrees - 1]
    z = _NORMAL_975
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees + second / degrees**2


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean and the half-width of its 95 % confidence interval; None for a single value.

    Raises ValueError for no value.
    """
    if not values:
        raise ValueError("there is no mean of no values")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, t_quantile_975(len(values) - 1) * math.sqrt(variance / len(values))


def summarise(runs: Sequence[Mapping[str, Any]]) -> tuple[Summary, Summary]:
    """Mean and half-width per key, over the runs in which the key has a number.

    A value None means "not defined in this run" (the acceptance of a profile that nobody asked for). A key
    without a number in any run is None in both answers. Text is left out: it identifies a run.
    """
    mean: Summary = {}
    half_width: Summary = {}
    for key in dict.fromkeys(key for run in runs for key in run):
        values = [run[key] for run in runs if run.get(key) is not None]
        if not values:
            mean[key] = half_width[key] = None
        elif all(isinstance(value, Mapping) for value in values):
            mean[key], half_width[key] = summarise(values)
        elif not any(isinstance(value, str) for value in values):
            mean[key], half_width[key] = mean_and_half_width([float(value) for value in values])
    return mean, half_width
