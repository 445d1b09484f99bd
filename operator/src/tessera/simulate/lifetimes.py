"""How long a request stays once it has been placed.

`exponential` and `lognormal:SIGMA` have the mean that is asked for; a file gives measured lifetimes in
seconds, one a line, which are drawn with replacement and keep their own mean.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.input_file import text_of

DEFAULT_MEAN_SECONDS = 3600.0


@dataclass(frozen=True)
class Lifetimes:
    """A distribution: its name, its mean in seconds, and `draw(rng, count)`."""

    name: str
    mean_seconds: float
    draw: Callable[[random.Random, int], list[float]]


def lifetimes_of(text: str, *, mean_seconds: float | None = None) -> Lifetimes:
    """The distribution of `--lifetime`. Raises BadSimulationInput."""
    mean = DEFAULT_MEAN_SECONDS if mean_seconds is None else mean_seconds
    if not (math.isfinite(mean) and mean > 0):
        raise BadSimulationInput(f"--mean-lifetime {mean:g}", "a lifetime is longer than 0 s")
    if text == "exponential":
        return Lifetimes(text, mean, lambda rng, count: _exponential(rng, count, mean))
    kind, _, parameter = text.partition(":")
    if kind == "lognormal":
        sigma = _sigma(parameter)
        # The mean of a log-normal is exp(mu + sigma^2 / 2).
        mu = math.log(mean) - sigma * sigma / 2
        return Lifetimes(text, mean, lambda rng, count: [rng.lognormvariate(mu, sigma) for _ in range(count)])
    path = Path(text)
    if not path.is_file():
        raise BadSimulationInput(
            f"--lifetime {text}", "it is neither exponential, lognormal:SIGMA nor a file of seconds"
        )
    if mean_seconds is not None:
        raise BadSimulationInput(
            f"--mean-lifetime {mean_seconds:g}", f"the file {path} has its own mean", "Leave one of them out."
        )
    measured = _read(path)
    return Lifetimes(
        text, math.fsum(measured) / len(measured), lambda rng, count: rng.choices(measured, k=count)
    )


def _exponential(rng: random.Random, count: int, mean: float) -> list[float]:
    log, uniform = math.log, rng.random
    return [-mean * log(1.0 - uniform()) for _ in range(count)]


def _sigma(text: str) -> float:
    try:
        sigma = float(text)
    except ValueError:
        sigma = math.nan
    if not (math.isfinite(sigma) and 0 < sigma <= 5):
        raise BadSimulationInput(
            f"--lifetime lognormal:{text}", "SIGMA is a number above 0, up to 5", "Write lognormal:1.5."
        )
    return sigma


def _read(path: Path) -> list[float]:
    measured = []
    for number, line in enumerate(text_of(path, kind="lifetime file").splitlines(), start=1):
        text = line.strip()
        if not text or (number == 1 and text.isidentifier()):
            continue  # a header or an empty line
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            raise BadSimulationInput(
                f"lifetime file {path}, line {number}", f"{text!r} is no number of seconds above 0"
            )
        measured.append(seconds)
    if not measured:
        raise BadSimulationInput(
            f"lifetime file {path} is empty", remedy="Write one lifetime in seconds a line."
        )
    return measured
