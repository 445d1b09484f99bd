"""What the commands of `tessera simulate` have in common: options, the progress bar, the log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from tessera.simulate.experiment import Arms

Command = Callable[..., Any]
Option = Callable[[Command], Command]

_SECONDS_UNTIL_PROGRESS = 1.0


def together(*options: Option) -> Option:
    """Several options as one, in the order of `--help`."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


json_option: Option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

plot_option: Option = click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.svg",
    help="Draw the result as SVG.",
)

log_option: Option = click.option(
    "--log",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.jsonl",
    help="Write every decision, a line each.",
)

cluster_options = together(
    click.option(
        "--model",
        "models",
        multiple=True,
        default=("H100-80GB",),
        metavar="MODEL[:COUNT]",
        help="GPU model; several with their counts make a mixed cluster.  [default: H100-80GB]",
    ),
    click.option("--gpus", type=int, help="Number of GPUs, with one MODEL.  [default: 100]"),
)


def policy_option(*, on_the_same: str) -> Option:
    """`--policy`; its help says on what the policies are compared."""
    return click.option(
        "--policy",
        "policies",
        multiple=True,
        default=("default",),
        metavar="NAME",
        help=f"Placement policy; several are compared on the same {on_the_same}. `all`: every policy."
        "  [default: default]",
    )


interruption_options = together(
    click.option(
        "--checkpoint-seconds",
        type=float,
        default=600.0,
        show_default=True,
        help="What is moved repeats what it did since its last checkpoint; they are so far apart.",
    ),
    click.option(
        "--restart-seconds",
        type=float,
        default=30.0,
        show_default=True,
        help="What it needs to start again when it was moved.",
    ),
)

arms_options = together(
    policy_option(on_the_same="workload"),
    click.option(
        "--max-victims",
        type=click.IntRange(min=0),
        default=None,
        metavar="K",
        help="Move up to K instances for a request that would be rejected."
        "  [default: 0; 2 with --max-moves-per-100]",
    ),
    click.option(
        "--max-moves-per-100",
        type=click.FloatRange(min=0),
        default=None,
        metavar="M",
        help="Ration: at most M moves for 100 accepted requests.  [default: none]",
    ),
    click.option(
        "--compact-every",
        type=float,
        default=None,
        metavar="SECONDS",
        help="So often empty GPUs by moves that the ration has to spare.  [default: never]",
    ),
    interruption_options,
    click.option(
        "--create-ms", type=float, default=250.0, show_default=True, help="Creating a MIG instance."
    ),
    click.option(
        "--delete-ms", type=float, default=100.0, show_default=True, help="Deleting a MIG instance."
    ),
)


def arms_of(options: Mapping[str, Any]) -> Arms:
    """The arms that `arms_options` describe. Raises BadSimulationInput."""
    from tessera.simulate.costs import MoveCosts
    from tessera.simulate.experiment import Arms, policies_given
    from tessera.simulate.mover import MoveRules

    victims, ration = options["max_victims"], options["max_moves_per_100"]
    if victims is None:
        victims = 0 if ration is None else 2
    return Arms(
        policies=policies_given(options["policies"]),
        known_mix=options.get("known_mix", False),
        moves=MoveRules(most_victims=victims, moves_per_100=ration, compact_every=options["compact_every"]),
        costs=MoveCosts(
            checkpoint_every=options["checkpoint_seconds"],
            restart=options["restart_seconds"],
            create=options["create_ms"] / 1000,
            delete=options["delete_ms"] / 1000,
        ),
    )


class ProgressBar:
    """A bar on standard error, when that is a terminal and the work is long."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=total)
        self._shown = sys.stderr.isatty()
        self._began = time.monotonic()
        self._drawn = 0.0

    def begins(self, what: str) -> None:
        """Say what runs now."""
        self._bar.update(self._task, description=what)

    def advanced(self, steps: int) -> None:
        """So many steps were done since."""
        self._bar.update(self._task, advance=steps)
        now = time.monotonic()
        if self._shown and now - self._began > _SECONDS_UNTIL_PROGRESS and now - self._drawn > 0.1:
            if not self._drawn:
                self._bar.start()
            self._drawn = now
            self._bar.refresh()

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._drawn:
            self._bar.stop()


@contextmanager
def progress_bar(total: int) -> Iterator[ProgressBar]:
    """A bar for `total` steps, gone at the end."""
    bar = ProgressBar(total)
    try:
        yield bar
    finally:
        bar.close()


@contextmanager
def log_file(path: Path | None) -> Iterator[TextIO | None]:
    """The log opened for writing, or None. Raises BadSimulationInput when it cannot be written."""
    from tessera.simulate.errors import BadSimulationInput

    if path is None:
        yield None
        return
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise BadSimulationInput(f"the log {path} cannot be written", str(error)) from error
    with file:
        yield file
