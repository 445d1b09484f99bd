"""How fast a workload answers and how fast it learns, on example batches alone: no data set, no training.

Latency is the time of one call, from before it to after its last result is there (on CUDA the device is
waited for). The first calls, which allocate and choose kernels, are not counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from tessera_workloads.device import Place
from tessera_workloads.errors import Preempted
from tessera_workloads.identity import Request, identity
from tessera_workloads.memory import peak_resident_bytes
from tessera_workloads.parameters import Parameters
from tessera_workloads.protocol import Metrics, apply_finished
from tessera_workloads.rehearsal import ExampleData, finished_artefacts, rehearse
from tessera_workloads.result import Evaluated, write_result
from tessera_workloads.stepping import Stepper, initialise
from tessera_workloads.timing import seconds_of

P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Repetitions:
    """How often a call is made: `warm_up` times unmeasured, then `measured` times."""

    warm_up: int
    measured: int


def bench(
    request: Request[P],
    *,
    place: Place,
    threads: int,
    batch: int,
    repetitions: Repetitions,
    preempted: Callable[[], bool],
    report: Callable[[str], None],
) -> Evaluated:
    """Time requests of `batch` samples and training steps of the longest phase; writes `bench.json`.

    Raises:
        NotOffered: when the workload has no `example_batch`.
        Preempted: when asked to stop; a benchmark leaves nothing to go on from.
    """
    torch.set_num_threads(threads)
    rows = []
    for name, prepared in (("infer", _request(request, place, batch)), ("train", _step(request, place))):
        report(f"timing {name}: {repetitions.warm_up} + {repetitions.measured} calls")
        seconds = _time(prepared.call, place.device, repetitions, preempted)
        rows.append(
            {
                "what": name,
                "phase": prepared.phase,
                "items": prepared.items,
                **_summary(seconds, prepared.items),
            }
        )
    values = {
        f"{row['what']}_{key}": row[key]
        for row in rows
        for key in ("p50_seconds", "p95_seconds", "p99_seconds", "items_per_second")
    }
    return write_result(
        request.out,
        "bench.json",
        metrics=Metrics(values=values, tables={"calls": rows}),
        checks=[],
        document={
            **identity(request, place, threads),
            "warmUp": repetitions.warm_up,
            "repetitions": repetitions.measured,
            "peakResidentBytes": peak_resident_bytes(),
        },
    )


@dataclass(frozen=True)
class _Prepared:
    phase: str
    items: int
    call: Callable[[], object]


def _request(request: Request[P], place: Place, size: int) -> _Prepared:
    """One request to the serving model, on the same batch every time."""
    workload, p = request.workload, request.parameters
    serving = workload.build_serving(p, finished_artefacts(workload, p))
    initialise(workload, serving, request.seed)
    serving.to(place.device).eval()
    stepper = Stepper(workload, p, ExampleData(workload, p), request.seed, place.device)
    batch = workload.example_batch(p, size, "infer", stepper.place("infer", 0, "request", 0))

    def answer() -> object:
        with torch.inference_mode():
            return workload.infer_batch(serving, batch)

    return _Prepared("serving", workload.items(batch), answer)


def _step(request: Request[P], place: Place) -> _Prepared:
    """One training step of the phase with the most steps.

    Its batch is drawn anew every time, as in training, always with the values of step 0.
    """
    workload, p = request.workload, request.parameters
    phase, before = max(rehearse(workload, p), key=lambda one: one[0].steps)
    model = workload.build_model(p, before)
    initialise(workload, model, request.seed)
    model = apply_finished(workload, model, before).to(place.device).train()
    stepper = Stepper(workload, p, ExampleData(workload, p), request.seed, place.device)
    optimizers = stepper.optimizers(phase, model)
    example = stepper.data.batch(phase.batch, stepper.place(phase.name, 0, "items", 0))
    micro_batches = sum(built.update.optimizer.accumulation for built in optimizers)
    return _Prepared(
        phase.name,
        workload.items(example) * micro_batches,
        lambda: stepper.step(phase, 0, model, optimizers),
    )


def _time(
    call: Callable[[], object],
    device: torch.device,
    repetitions: Repetitions,
    preempted: Callable[[], bool],
) -> list[float]:
    seconds = []
    for _ in range(repetitions.warm_up + repetitions.measured):
        if preempted():
            raise Preempted(
                "stopped by signal in the middle of a benchmark: start it again from the beginning"
            )
        seconds.append(seconds_of(call, device))
    return seconds[repetitions.warm_up :]


def _summary(seconds: Sequence[float], items: int) -> dict[str, Any]:
    p50, p95, p99 = (float(value) for value in np.percentile(seconds, (50, 95, 99)))
    return {
        "p50_seconds": p50,
        "p95_seconds": p95,
        "p99_seconds": p99,
        "items_per_second": items * len(seconds) / sum(seconds),
    }
