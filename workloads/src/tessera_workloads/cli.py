"""`tessera-worker`: list, describe, train, evaluate, time and ask workloads, in a pod as on a laptop.

Parsing and refusing come first and need no torch, so a typing error costs a fraction of a second. Then the
progress port opens, then torch is imported. Whatever happens ends in one exit code, one line on standard
error and one termination message (docs/architecture.md); only a defect of the code shows a traceback.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tessera_workloads.command_line import CHECKPOINT_EVERY, assignments, build_parser
from tessera_workloads.description import describe, listing
from tessera_workloads.errors import ExitCode, GateFailed, OutOfMemory, OutputNotWritable, WorkerError
from tessera_workloads.parameters import Parameters
from tessera_workloads.preemption import Preemption
from tessera_workloads.progress import Progress, ProgressServer
from tessera_workloads.registry import find_parameters, find_workload
from tessera_workloads.result import Evaluated, Termination, check_table, ensure_writable, write_termination
from tessera_workloads.threads import confine


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    session = _Session()
    try:
        arguments = build_parser().parse_args(argv)
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
            print(listing())
            return ExitCode.COMPLETE
        if arguments.command == "describe":
            print(describe(arguments))
            return ExitCode.COMPLETE
        self._runs = True
        self._termination_log = arguments.termination_log
        return self._run_workload(arguments)

    def _run_workload(self, arguments: argparse.Namespace) -> int:
        preemption = Preemption()
        preemption.install()
        parameters = find_parameters(arguments.workload).parse(
            assignments(arguments.set), size=arguments.size
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
        if evaluated.checks:
            print(check_table(evaluated.checks))
        shown = [path for path in evaluated.files if path.parent == arguments.out]
        for path in [evaluated.result_path, *shown]:
            print(path)
        if evaluated.failed_gates:
            names = ", ".join(f"{c.name} = {c.value:.4g} (must be {c.bound})" for c in evaluated.failed_gates)
            raise GateFailed(f"{len(evaluated.failed_gates)} gate(s) failed: {names}")
        passed = sum(check.decides for check in evaluated.checks)
        done = f"all {passed} gates passed" if evaluated.checks else f"{arguments.command}: done"
        self.end(outcome="complete", reason="Complete", message=done)
        return ExitCode.COMPLETE

    def _compute(
        self, arguments: argparse.Namespace, parameters: Parameters, preemption: Preemption
    ) -> Evaluated:
        assert self._progress is not None
        threads = confine(os.environ)
        self._say("loading torch")
        import torch

        from tessera_workloads.bench import Repetitions, bench
        from tessera_workloads.device import choose_place
        from tessera_workloads.identity import Request
        from tessera_workloads.runner import Runner

        place = choose_place(os.environ, choice=arguments.device, cuda_available=torch.cuda.is_available())
        self._say(f"{place.sentence}, {threads} thread(s), seed {arguments.seed}")
        request = Request(
            name=arguments.workload,
            workload=find_workload(arguments.workload),
            parameters=parameters,
            size=arguments.size,
            seed=arguments.seed,
            out=arguments.out,
            checkpoint_every=getattr(arguments, "checkpoint_every", CHECKPOINT_EVERY),
            allow_thread_change=getattr(arguments, "allow_thread_change", False),
            fresh=getattr(arguments, "fresh", False),
            foresee=getattr(arguments, "footprint", False),
        )

        def preempted() -> bool:
            return preemption.requested

        try:
            if arguments.command == "bench":
                self._progress.enter("bench")
                return bench(
                    request,
                    place=place,
                    threads=threads,
                    batch=arguments.batch,
                    repetitions=Repetitions(warm_up=arguments.warm_up, measured=arguments.repetitions),
                    preempted=preempted,
                    report=self._say,
                )
            runner = Runner(
                request,
                place=place,
                threads=threads,
                progress=self._progress,
                preempted=preempted,
                report=self._say,
            )
            if arguments.command == "infer":
                return runner.infer(arguments.file)
            return runner.train() if arguments.command == "train" else runner.evaluate()
        except torch.OutOfMemoryError as error:
            first = str(error).splitlines()[0]
            raise OutOfMemory(f"{first} Ask for a larger profile or a smaller batch.") from error

    def end(self, *, outcome: Any, reason: str, message: str) -> None:
        """Leave the termination message; a listing or a description has none."""
        if not self._runs and reason not in ("InvalidRequest",):
            return
        snapshot: Mapping[str, Any] = self._progress.snapshot() if self._progress else {}
        evaluated = self._evaluated
        gates = [check for check in evaluated.checks if check.decides] if evaluated else []
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


if __name__ == "__main__":
    sys.exit(main())
