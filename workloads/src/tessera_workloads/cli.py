"""`tessera-worker`: list, describe, train and evaluate workloads, the same in a pod and on a laptop.

Parsing and refusing come first and need no torch, so a typing error costs a fraction of a second. Then the
progress port opens, then torch is imported. Whatever happens ends in one exit code, one line on standard
error and one termination message (docs/architecture.md); only a defect of the code shows a traceback.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tessera_workloads import __version__
from tessera_workloads.errors import ExitCode, GateFailed, InvalidRequest, OutputNotWritable, WorkerError
from tessera_workloads.parameters import Parameters
from tessera_workloads.preemption import Preemption
from tessera_workloads.progress import Progress, ProgressServer
from tessera_workloads.registry import BUILT_IN, find_parameters, find_workload
from tessera_workloads.result import Termination, check_table, ensure_writable, write_termination

if TYPE_CHECKING:
    from tessera_workloads.runner import Evaluated


class _Parser(argparse.ArgumentParser):
    """Errors of the command line end like all others: one line, exit code 2, a termination message."""

    def error(self, message: str) -> NoReturn:
        raise InvalidRequest(f"{message} (see {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    session = _Session()
    try:
        arguments = _parser().parse_args(argv)
        return session.run(arguments)
    except WorkerError as error:
        print(f"tessera-worker: {error}", file=sys.stderr)
        session.end(outcome=error.outcome, reason=error.reason, message=str(error))
        return error.exit_code
    except BrokenPipeError:
        return ExitCode.CRASHED
    except Exception as error:
        traceback.print_exc()
        session.end(outcome="failed", reason="Crashed", message=f"{type(error).__name__}: {error}")
        return ExitCode.CRASHED


class _Session:
    """One invocation: what has to be known to end it properly, wherever it fails."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._progress: Progress | None = None
        self._evaluated: Evaluated | None = None
        self._termination_log: Path | None = None
        self._runs = False

    def run(self, arguments: argparse.Namespace) -> int:
        if arguments.command == "list":
            for name, entry in sorted(BUILT_IN.items()):
                print(f"{name:<12}{entry.summary}")
            return ExitCode.COMPLETE
        if arguments.command == "describe":
            _describe(arguments.workload, as_json=arguments.json)
            return ExitCode.COMPLETE
        self._runs = True
        self._termination_log = arguments.termination_log
        return self._run_workload(arguments)

    def _run_workload(self, arguments: argparse.Namespace) -> int:
        preemption = Preemption()
        preemption.install()
        parameters = find_parameters(arguments.workload).parse(
            _assignments(arguments.set), size=arguments.size
        )
        if problem := ensure_writable(arguments.out):
            raise OutputNotWritable(problem)
        self._progress = Progress(workload=arguments.workload)
        server = ProgressServer(self._progress, port=arguments.port)
        server.start()
        try:
            self._say(f"progress: http://127.0.0.1:{server.port}/progress")
            evaluated = self._compute(arguments, parameters, preemption)
        finally:
            server.stop()
        self._evaluated = evaluated
        print(check_table(evaluated.checks))
        shown = [path for path in evaluated.files if path.parent == arguments.out]
        for path in [evaluated.result_path, *shown]:
            print(path)
        if evaluated.failed_gates:
            names = ", ".join(f"{c.name} = {c.value:.4g} (must be {c.bound})" for c in evaluated.failed_gates)
            raise GateFailed(f"{len(evaluated.failed_gates)} gate(s) failed: {names}")
        passed = sum(check.kind == "gate" for check in evaluated.checks)
        self.end(outcome="complete", reason="Complete", message=f"all {passed} gates passed")
        return ExitCode.COMPLETE

    def _compute(
        self, arguments: argparse.Namespace, parameters: Parameters, preemption: Preemption
    ) -> "Evaluated":
        assert self._progress is not None
        self._say("loading torch")
        import torch

        from tessera_workloads.device import choose_place, thread_count
        from tessera_workloads.runner import Request, Runner

        place = choose_place(os.environ, choice=arguments.device, cuda_available=torch.cuda.is_available())
        threads = thread_count(os.environ)
        self._say(f"{place.sentence}, {threads} thread(s), seed {arguments.seed}")
        request = Request(
            name=arguments.workload,
            workload=find_workload(arguments.workload),
            parameters=parameters,
            size=arguments.size,
            seed=arguments.seed,
            out=arguments.out,
            checkpoint_every=getattr(arguments, "checkpoint_every", 200),
            allow_thread_change=getattr(arguments, "allow_thread_change", False),
            fresh=getattr(arguments, "fresh", False),
        )
        runner = Runner(
            request,
            place=place,
            threads=threads,
            progress=self._progress,
            preempted=lambda: preemption.requested,
            report=self._say,
        )
        return runner.train() if arguments.command == "train" else runner.evaluate()

    def end(self, *, outcome: Any, reason: str, message: str) -> None:
        """Leave the termination message; a listing or a description has none."""
        if not self._runs and reason not in ("InvalidRequest",):
            return
        snapshot: Mapping[str, Any] = self._progress.snapshot() if self._progress else {}
        evaluated = self._evaluated
        gates = [check for check in evaluated.checks if check.kind == "gate"] if evaluated else []
        problem = write_termination(
            Termination(
                outcome=outcome,
                reason=reason,
                message=message,
                step=snapshot.get("step", 0),
                steps=snapshot.get("steps", 0),
                checks_passed=sum(check.passed for check in gates),
                checks_failed=sum(not check.passed for check in gates),
                metrics=evaluated.metrics.values if evaluated else {},
                result_path=str(evaluated.result_path) if evaluated else "",
            ),
            self._termination_log,
        )
        if problem:
            print(f"tessera-worker: {problem}", file=sys.stderr)

    def _say(self, line: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f} s] {line}", file=sys.stderr, flush=True)


def _assignments(pairs: Sequence[str]) -> dict[str, str]:
    assigned: dict[str, str] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key:
            raise InvalidRequest(f"--set {pair!r} is not of the form key=value")
        if key in assigned:
            raise InvalidRequest(f"--set {key} is given twice")
        assigned[key] = text
    return assigned


def _describe(name: str, *, as_json: bool) -> None:
    declared = find_parameters(name)
    if as_json:
        sizes = {size: dict(changes) for size, changes in declared.sizes.items()}
        print(json.dumps({"workload": name, "parameters": declared.json_schema(), "sizes": sizes}, indent=2))
        return
    print(f"{name}: {BUILT_IN[name].summary}\n" if name in BUILT_IN else f"{name}\n")
    specs = declared.specs()
    width = max((len(spec.name) for spec in specs), default=0)
    for spec in specs:
        print(f"  {spec.name:<{width}}  {spec.bounds.help}")
        print(f"  {'':<{width}}  {spec.domain}; default {spec.default}")
    print("\nsizes")
    for size, changes in declared.sizes.items():
        said = ", ".join(f"{key}={value}" for key, value in changes.items()) or "the defaults"
        print(f"  {size:<6} {said}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tessera-worker", description="Train and evaluate workloads on a slice, or anywhere."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("list", help="the built-in workloads")
    describe = commands.add_parser("describe", help="a workload's parameters, ranges and sizes")
    describe.add_argument("workload", metavar="NAME")
    describe.add_argument("--json", action="store_true", help="as a JSON schema")
    train = commands.add_parser("train", help="train, or go on from a checkpoint in --out; then evaluate")
    evaluate = commands.add_parser(
        "evaluate", help="evaluate the newest checkpoint of this configuration in --out"
    )
    for command in (train, evaluate):
        _add_run_options(command)
    train.add_argument(
        "--checkpoint-every", type=_positive, default=200, metavar="K", help="steps (default 200)"
    )
    train.add_argument("--allow-thread-change", action="store_true", help="resume with another thread count")
    train.add_argument("--fresh", action="store_true", help="start from step 0 even where a checkpoint is")
    return parser


def _add_run_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("workload", metavar="NAME", help="a built-in name, or package.module:Class")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one parameter; repeatable"
    )
    command.add_argument("--size", default="ci", help="ci (default), slice or full")
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


if __name__ == "__main__":
    sys.exit(main())
