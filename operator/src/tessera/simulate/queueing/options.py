"""What the options of `tessera simulate queue` mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera.gpu.profiles import GPUModel, UnknownProfile
from tessera.simulate.costs import MoveCosts
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.mixes import read_weights, weight_of
from tessera.simulate.queueing.moving import MoveRule
from tessera.simulate.queueing.reservations import ReservationRule
from tessera.simulate.queueing.workload import Mix, mix_of

DEFAULT_PRIORITIES = (80.0, 20.0)
"""Weights of the priorities 0 and 1 when a queue is ordered by priority and nothing is said."""


def mix_given(text: str | None, board: GPUModel) -> Mix:
    """The mix of `--mix`: `profile=weight,…`, or a CSV file with the header profile,weight; None: the
    published one. Raises BadSimulationInput.
    """
    if text is None:
        return mix_of(board)
    try:
        return mix_of(board, _weights(text, board))
    except UnknownProfile as unknown:
        raise BadSimulationInput(f"--mix {text}", str(unknown)) from unknown


def _weights(text: str, board: GPUModel) -> dict[str, float]:
    if "=" not in text:
        if not Path(text).is_file():
            raise BadSimulationInput(
                f"--mix {text}", "it is neither a file nor a list", "Write profile=weight,profile=weight."
            )
        return read_weights(Path(text), check=lambda profile, where: board.profile(profile))
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, weight = (cell.strip() for cell in part.partition("="))
        if name in weights:
            raise BadSimulationInput(
                f"--mix {text}", f"profile {name} stands there twice", "Give it one weight."
            )
        weights[name] = weight_of(weight, where=f"--mix {text}")
    return weights


def priorities_given(text: str | None, orders: Sequence[str]) -> tuple[float, ...]:
    """The weights of `--priority-weights`. Raises BadSimulationInput."""
    if text is None:
        return DEFAULT_PRIORITIES if "priority" in orders else (1.0,)
    return tuple(weight_of(part, where=f"--priority-weights {text}") for part in text.split(","))


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
