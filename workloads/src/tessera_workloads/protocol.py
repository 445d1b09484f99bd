"""What a workload is: a small class that says what to train, and never how a training run is kept alive.

A run is a chain of *phases*. `next_phase` picks the next one from the facts that the finished ones left, so
that a search or a derived architecture is a phase like any other. When a phase ends, `compute_artefacts`
makes what the next one is built on (masks, bases, an architecture) once; it is saved, and `apply_artefacts`
applies it, also after a resume. Optimisers are declared, not built, so that a planner can reason about them.
Everything random comes from the generator in `Step`, which depends on (seed, phase, step, update,
micro-batch) alone: a resumed run draws the numbers that the uninterrupted one would have drawn.

The simplest workload writes `name`, `version`, `Parameters`, `make_data`, `build_model`, `phases`, `loss`,
`evaluate` and `checks`. `runner` owns the rest: device, checkpoints, signals, progress, results.

A workload that also says what a batch looks like (`example_batch`) can be planned and measured without its
data: `footprint` traces its training step without memory or arithmetic, `bench` times it. What else it can
do has a default or is refused in one sentence: `example_artefacts`, `build_serving`, `infer_batch`, `infer`,
`federated`. Importing this module does not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    runtime_checkable,
)

from tessera_workloads.errors import NotOffered
from tessera_workloads.parameters import Parameters

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

P = TypeVar("P", bound=Parameters)

Batch = Mapping[str, "Tensor"]
"""Named tensors whose first dimension counts samples."""

Json = Any
"""A value that `json` can write."""

LrSchedule = Callable[[int], float]
"""Learning rate of a step (0-based, within its phase). Explicit, so that a plan can print it and a resume
repeats it.
"""

Split = Literal["train", "test"]

Mode = Literal["train", "infer"]
"""What an example batch is for: one training step, or one request to the serving model."""


class Loss(NamedTuple):
    """A scalar to minimise (a mean over samples) and its parts, for the logs. A tuple, so torch transforms
    see through it.
    """

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class ParameterGroup:
    """Model parameters whose names match a shell pattern get their own factor on the learning rate and weight
    decay.
    """

    match: str
    lr_scale: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimiser as data. The first group that matches a parameter's name wins; the rest get the plain
    values.
    """

    kind: Literal["adam", "adamw", "sgd"]
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.0
    groups: tuple[ParameterGroup, ...] = ()
    clip_norm: float | None = None
    accumulation: int = 1


@dataclass(frozen=True)
class Update:
    """One optimiser step within a training step: which model parameters it trains (shell patterns on names),
    and how.
    """

    optimizer: OptimizerSpec
    trains: tuple[str, ...] = ("*",)
    name: str = "weights"


@dataclass(frozen=True)
class Phase:
    """A stretch of training steps with one batch size, one schedule and one set of updates."""

    name: str
    steps: int
    batch: int
    updates: tuple[Update, ...]
    lr_at: LrSchedule
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True)
class Shard:
    """Which client's part of the data to make. `scheme`: `iid`, `labels:k` or `dirichlet:a`."""

    index: int
    count: int
    scheme: str = "iid"


@dataclass(frozen=True)
class Step:
    """Where in the run a batch or a loss is asked for. `generator` is fresh for every (step, update,
    micro-batch).
    """

    phase: str
    step: int
    update: str
    micro_batch: int
    generator: torch.Generator
    device: torch.device


@dataclass(frozen=True)
class FederatedView:
    """What of the model travels when clients train one phase together (shell patterns on names).

    Every parameter matches either `shared` (averaged over the clients) or `personal` (stays with its client).
    Every buffer that is saved matches `buffers`; buffers stay with their client, too.
    """

    phase: str
    shared: tuple[str, ...]
    personal: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()


class Batches(Protocol):
    """What training steps draw from."""

    def batch(self, size: int, step: Step) -> Batch:
        """`size` samples for this step, on the step's device; the choice depends on `step` alone."""


class Dataset(Protocol):
    """Seeded, offline data. What `evaluate` gets of it is a matter between it and the workload."""

    def content_hash(self) -> str:
        """SHA-256 over the data, so that two results can be said to have seen the same."""


@runtime_checkable
class TrainingData(Batches, Dataset, Protocol):
    """Data to train on."""


@dataclass(frozen=True)
class Artefacts:
    """What a finished phase leaves: tensors for `apply_artefacts`, and facts (JSON) for `next_phase`."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    facts: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Metrics:
    """The outcome of an evaluation. `files` (name -> bytes) are written into the output directory by the
    runner.
    """

    values: Mapping[str, float]
    tables: Mapping[str, list[dict[str, Json]]] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


CheckKind = Literal["gate", "control", "report"]
CheckScope = Literal["run", "mean"]


@dataclass(frozen=True)
class Check:
    """One judged number. A `gate` decides the exit code; a `control` and a `report` are printed beside it.

    `bound` is readable (`>= 0.3`); a control is a trivial method that the real one must be read against. What
    is claimed of the mean over seeds (`over="mean"`) is printed by a single run and decides nothing there:
    `make reproduce` judges the mean.
    """

    name: str
    value: float
    bound: str
    kind: CheckKind
    passed: bool
    over: CheckScope = "run"

    @staticmethod
    def at_least(
        name: str, value: float, bound: float, *, kind: CheckKind = "gate", over: CheckScope = "run"
    ) -> Check:
        """A check that passes from the bound upwards; NaN never passes."""
        text = f">= {bound:g}"
        return Check(name, value, text, kind, Check.keeps(value, text), over)

    @staticmethod
    def at_most(
        name: str, value: float, bound: float, *, kind: CheckKind = "gate", over: CheckScope = "run"
    ) -> Check:
        """A check that passes up to the bound; NaN never passes."""
        text = f"<= {bound:g}"
        return Check(name, value, text, kind, Check.keeps(value, text), over)

    @staticmethod
    def keeps(value: float, bound: str) -> bool:
        """Whether a value, of one run or the mean over seeds, keeps a bound as it is shown: `>= 0.3`."""
        sign, number = bound.split()
        return value >= float(number) if sign == ">=" else value <= float(number)

    @staticmethod
    def note(name: str, value: float, *, kind: Literal["control", "report"] = "report") -> Check:
        """A number without a bound: shown, never judged."""
        return Check(name=name, value=value, bound="", kind=kind, passed=True)

    @property
    def decides(self) -> bool:
        """Whether this run's outcome hangs on it."""
        return self.kind == "gate" and self.over == "run"


class Workload(Generic[P]):
    """Base of all workloads; see the module's docstring for which methods a simple one writes."""

    name: ClassVar[str]
    version: ClassVar[str]
    Parameters: ClassVar[type[Parameters]]

    def make_data(self, p: P, *, split: Split, seed: int, shard: Shard | None = None) -> Dataset:
        """Data of a split, made offline from the seed alone; that of the training split is `TrainingData`."""
        raise NotImplementedError

    def training_data(self, p: P, *, seed: int) -> TrainingData:
        """The training split.

        Raises:
            TypeError: when `make_data` gives no batches for it (a defect of the workload).
        """
        data = self.make_data(p, split="train", seed=seed)
        if not isinstance(data, TrainingData):
            raise TypeError(
                f'workload "{self.name}": its training data ({type(data).__name__}) give no batches; '
                "write `batch` and `content_hash`"
            )
        return data

    def build_model(self, p: P, artefacts: Mapping[str, Artefacts]) -> nn.Module:
        """The structure (must also work on the meta device); its values come from `init_parameter` or a
        checkpoint.
        """
        raise NotImplementedError

    def init_parameter(self, name: str, tensor: Tensor, generator: torch.Generator) -> None:
        """Fill one parameter in place. The generator depends on (seed, name), so the order does not matter.

        Default: matrices and kernels uniform in +-1/sqrt(fan-in) (torch's own for Linear and Conv), biases 0,
        scales 1.
        """
        if tensor.ndim >= 2:
            bound = 1 / math.sqrt(tensor.numel() / tensor.shape[0])
            tensor.uniform_(-bound, bound, generator=generator)
        else:
            tensor.fill_(0.0 if name.endswith("bias") else 1.0)

    def phases(self, p: P) -> tuple[Phase, ...]:
        """The phases, when they are known beforehand."""
        raise NotImplementedError

    def next_phase(self, p: P, facts: Mapping[str, Mapping[str, Json]]) -> Phase | None:
        """The next phase, given the facts of the finished ones by phase name; None ends the run. Pure."""
        return next((phase for phase in self.phases(p) if phase.name not in facts), None)

    def compute_artefacts(self, p: P, phase: Phase, model: nn.Module, data: Dataset, step: Step) -> Artefacts:
        """What a phase leaves, computed once at its end and saved with the checkpoint."""
        return Artefacts()

    def apply_artefacts(self, model: nn.Module, phase: str, artefacts: Artefacts) -> nn.Module:
        """The model that continues after `phase`. On a resume it runs once per finished phase, then weights
        are loaded. It may read the values of the artefacts, never those of the model: in a trace the model
        has none.
        """
        return model

    def prepare(self, model: nn.Module, batch: Batch, step: Step) -> Batch:
        """What the loss needs and no gradient flows through: rollouts, rewards, matching. Traceable like
        `loss`: a solver from outside torch goes into a `torch.library.custom_op` with a fake.
        """
        return batch

    def loss(self, p: P, model: nn.Module, batch: Batch, step: Step) -> Loss:
        """The objective on one batch: pure, and traceable by torch (no `float()`, no boolean indexing)."""
        raise NotImplementedError

    def evaluate(self, p: P, model: nn.Module, data: Dataset, device: torch.device) -> Metrics:
        """Measure the trained model on the test split. Writes nothing: files are returned."""
        raise NotImplementedError

    def checks(self, p: P, metrics: Metrics) -> list[Check]:
        """Judge the metrics. Pure."""
        return []

    def example_batch(self, p: P, size: int, mode: Mode, step: Step) -> Batch:
        """A batch like those of the data set, made without it: the right names, shapes and types, any values.

        For "train": what `Dataset.batch` gives in phase `step.phase`. For "infer": what `infer_batch` takes.
        Drawn from `step.generator` on `step.device`. Must work on fake tensors: no values are read.
        """
        raise NotOffered(
            f'workload "{self.name}" says not what a batch looks like, so it cannot be traced or benchmarked '
            "without its data: write `example_batch`"
        )

    def example_artefacts(self, p: P, phase: Phase) -> Artefacts:
        """What `compute_artefacts` could leave after `phase`, made without training: real tensors of the
        right shape and density, and facts that `next_phase` goes on from (a search may end at once).
        """
        return Artefacts()

    def items(self, batch: Batch) -> int:
        """How many things a batch processes, for throughput: samples, unless tokens or boxes say more."""
        return next(iter(batch.values())).shape[0]

    def build_serving(self, p: P, artefacts: Mapping[str, Artefacts]) -> nn.Module:
        """The structure that answers requests once all phases are done: by default the trained model's own.

        A cheaper form of it is welcome (sparse, a part of it); its parameters and buffers keep the trained
        model's names, by which their values are loaded.
        """
        return apply_finished(self, self.build_model(p, artefacts), artefacts)

    def infer_batch(self, model: nn.Module, batch: Batch) -> Any:
        """The serving model's answer to a batch of mode "infer": by default it is called with its tensors, in
        order.
        """
        return model(*batch.values())

    def infer(self, p: P, model: nn.Module, path: Path, device: torch.device) -> Metrics:
        """Answer a user's own file with the trained serving model: what was measured, and files by name.

        Raises:
            InvalidRequest: when the file is not what this workload reads.
        """
        raise NotOffered(f'workload "{self.name}" takes no file of its own: it can be trained and evaluated')

    def federated(self, p: P) -> FederatedView | None:
        """What clients would share when they train together; None when this workload does not fit that."""
        return None


def apply_finished(workload: Workload[P], model: nn.Module, artefacts: Mapping[str, Artefacts]) -> nn.Module:
    """A freshly built model as the finished phases left it, in the order of `artefacts`; values apart."""
    for phase, left in artefacts.items():
        model = workload.apply_artefacts(model, phase, left)
    return model
