"""A run without its data: the same phases and the same steps, on example batches and example artefacts.

Plans and benchmarks need no result, only the right shapes in the right order. So they walk through the phases
as a run would, and where a phase would leave something, the workload's example of it stands in.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from tessera_workloads.parameters import Parameters
from tessera_workloads.protocol import Artefacts, Batch, Phase, Step, Workload

P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class ExampleData(Generic[P]):
    """A workload's example batches, in place of a data set's."""

    workload: Workload[P]
    parameters: P

    def batch(self, size: int, step: Step) -> Batch:
        """An example of a training batch."""
        return self.workload.example_batch(self.parameters, size, "train", step)


def rehearse(workload: Workload[P], p: P) -> Iterator[tuple[Phase, dict[str, Artefacts]]]:
    """Every phase of a run, with the workload's example of what the phases before it leave.

    Raises:
        ValueError: when a phase comes twice, which no run would end (a defect of the workload).
    """
    before: dict[str, Artefacts] = {}
    while (
        phase := workload.next_phase(p, {name: artefacts.facts for name, artefacts in before.items()})
    ) is not None:
        if phase.name in before:
            raise ValueError(f"{workload.name}: phase {phase.name!r} follows itself, although it is finished")
        yield phase, dict(before)
        before[phase.name] = workload.example_artefacts(p, phase)


def finished_artefacts(workload: Workload[P], p: P) -> dict[str, Artefacts]:
    """Examples of what all phases of a run leave, by phase."""
    return {phase.name: workload.example_artefacts(p, phase) for phase, _ in rehearse(workload, p)}
