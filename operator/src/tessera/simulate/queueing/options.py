"""What the options of `tessera simulate queue` mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.gpu.profiles import GPUModel, UnknownModel, UnknownProfile, model
from tessera.simulate.costs import MoveCosts
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.queueing.moving import MoveRule
from tessera.simulate.queueing.reservations import ReservationRule
from tessera.simulate.queueing.workload import Mix, mix_of

DEFAULT_PRIORITIES = (80.0, 20.0)
"""Weights of the priorities 0 and 1 when a queue is ordered by priority and nothing is said."""


def model_given(name: str) -> GPUModel:
    """The model of `--model`. Raises BadSimulationInput."""
    try:
        return model(name)
    except UnknownModel as unknown:
        raise BadSimulationInput(f"--model {name}", str(unknown)) from unknown


def mix_given(text: str | None, board: GPUModel) -> Mix:
    """The mix of `--mix`: `profile=weight,…`, or a CSV file with the header profile,weight; None: the
    published one. Raises BadSimulationInput.
    """
    if text is None:
        return mix_of(board)
    try:
        return mix_of(board, _weights(text))
    except UnknownProfile as unknown:
        raise BadSimulationInput(f"--mix {text}", str(unknown)) from unknown


def _weights(text: str) -> dict[str, float]:
    if "=" in text:
        pairs = [part.partition("=")[::2] for part in text.split(",")]
    elif Path(text).is_file():
        header, *lines = Path(text).read_text(encoding="utf-8-sig").splitlines() or [""]
        if [name.strip() for name in header.split(",")] != ["profile", "weight"]:
            raise BadSimulationInput(
                f"mix file {text}", "its first line is something else", "The first line is profile,weight."
            )
        pairs = [line.partition(",")[::2] for line in lines if line.strip()]
    else:
        raise BadSimulationInput(
            f"--mix {text}", "it is neither a file nor a list", "Write profile=weight,profile=weight."
        )
    weights: dict[str, float] = {}
    for name, weight in ((name.strip(), weight) for name, weight in pairs):
        if name in weights:
            raise BadSimulationInput(
                f"--mix {text}", f"profile {name} stands there twice", "Give it one weight."
            )
        weights[name] = _number(weight, where=f"--mix {text}")
    return weights


def _number(text: str, *, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise BadSimulationInput(where, f"weight {text!r} is no number") from None
    if not (math.isfinite(number) and number > 0):
        raise BadSimulationInput(
            where, f"weight {text.strip()} is not above 0", "Leave out what has no weight."
        )
    return number


def priorities_given(text: str | None, orders: Sequence[str]) -> tuple[float, ...]:
    """The weights of `--priority-weights`. Raises BadSimulationInput."""
    if text is None:
        return DEFAULT_PRIORITIES if "priority" in orders else (1.0,)
    return tuple(_number(part, where=f"--priority-weights {text}") for part in text.split(","))


def reservation_given(options: Mapping[str, Any], mix: Mix, board: GPUModel) -> ReservationRule:
    """The rule of the `--reserve-…` options. Raises BadSimulationInput."""
    known = {shape.profile for shape in mix.shapes}
    whole = {shape.profile for shape in mix.shapes if shape.memory_slices == board.memory_slices}
    named = options["reserve_profiles"]
    profiles = whole if named is None else {part.strip() for part in named.split(",")}
    for unknown in sorted(profiles - known):
        raise BadSimulationInput(
            f"--reserve-profiles {named}",
            f"profile {unknown} is not in the mix",
            f"Choose of {', '.join(sorted(known))}.",
        )
    if options["reserve_after"] is None and (named is not None or options["reserve_backfill"]):
        raise BadSimulationInput("nothing is reserved", "--reserve-after is missing", "Give it, in seconds.")
    return ReservationRule(
        after_seconds=options["reserve_after"],
        profiles=frozenset(profiles),
        at_once=options["reserve_at_once"],
        backfill=options["reserve_backfill"],
    )


def moves_given(options: Mapping[str, Any]) -> MoveRule:
    """The rule of the options about moves. Raises BadSimulationInput."""
    if not options["max_victims"] and options["max_moves_per_100"] is not None:
        raise BadSimulationInput("nothing is moved", "--max-victims is missing", "Give it, for example 2.")
    return MoveRule(
        most_victims=options["max_victims"],
        moves_per_100=options["max_moves_per_100"],
        after_seconds=options["move_after"],
        costs=MoveCosts(checkpoint_every=options["checkpoint_seconds"], restart=options["restart_seconds"]),
    )
