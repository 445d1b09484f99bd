"""What can be said on the command line: commands, options and the types of their values.

Nothing here needs torch, so that a typing error costs a fraction of a second.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tessera_workloads import __version__
from tessera_workloads.errors import InvalidRequest

CHECKPOINT_EVERY = 200
"""Steps, where nothing else is said."""


class _Parser(argparse.ArgumentParser):
    """Errors of the command line end like all others: one line, exit code 2, a termination message."""

    def error(self, message: str) -> NoReturn:
        raise InvalidRequest(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """`tessera-worker`."""
    parser = _Parser(
        prog="tessera-worker", description="Train, evaluate, time and ask workloads on a slice, or anywhere."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="the built-in workloads")
    describe = commands.add_parser("describe", help="a workload's parameters, ranges and sizes")
    _add_configuration(describe)
    describe.add_argument("--json", action="store_true", help="as a JSON schema")
    describe.add_argument(
        "--footprint",
        action="store_true",
        help="memory and arithmetic of a training step, foreseen by a trace",
    )
    train = commands.add_parser("train", help="train, or go on from a checkpoint in --out; then evaluate")
    evaluate = commands.add_parser(
        "evaluate", help="evaluate the newest checkpoint of this configuration in --out"
    )
    infer = commands.add_parser("infer", help="answer a file with the newest checkpoint in --out")
    bench = commands.add_parser("bench", help="latency and throughput of requests and training steps")
    for command in (train, evaluate, infer, bench):
        _add_configuration(command)
        _add_run_options(command)
    infer.add_argument("--file", type=_file, required=True, metavar="FILE", help="what is to be answered")
    bench.add_argument(
        "--batch", type=_positive, default=1, metavar="N", help="samples a request (default 1)"
    )
    bench.add_argument(
        "--warm-up", type=_natural, default=5, metavar="N", help="calls not counted (default 5)"
    )
    bench.add_argument(
        "--repetitions", type=_positive, default=50, metavar="N", help="calls counted (default 50)"
    )
    train.add_argument(
        "--checkpoint-every",
        type=_positive,
        default=CHECKPOINT_EVERY,
        metavar="K",
        help="steps (default %(default)s)",
    )
    train.add_argument("--allow-thread-change", action="store_true", help="resume with another thread count")
    train.add_argument("--fresh", action="store_true", help="start from step 0 even where a checkpoint is")
    train.add_argument(
        "--footprint", action="store_true", help="foresee every phase's memory, for comparison in result.json"
    )
    return parser


def _add_configuration(command: argparse.ArgumentParser) -> None:
    command.add_argument("workload", metavar="NAME", help="a name that `list` shows, or package.module:Class")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one parameter; repeatable"
    )
    command.add_argument("--size", default="ci", help="ci (default), slice or full")


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=_natural, default=0)
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="results and checkpoints")
    command.add_argument(
        "--port", type=_port, default=9090, help="progress and metrics (default 9090, 0: any)"
    )
    command.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    command.add_argument(
        "--termination-log", type=Path, metavar="PATH", help="instead of /dev/termination-log"
    )


def _natural(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 2^63 - 1")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _file(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file that is here")
    return path


def assignments(pairs: Sequence[str]) -> dict[str, str]:
    """Read the pairs of `--set`.

    Raises:
        InvalidRequest: when one is not of the form key=value, or a key is given twice.
    """
    assigned: dict[str, str] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key:
            raise InvalidRequest(f"--set {pair!r} is not of the form key=value")
        if key in assigned:
            raise InvalidRequest(f"--set {key} is given twice")
        assigned[key] = text
    return assigned
