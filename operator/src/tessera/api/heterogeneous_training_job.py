"""``HeterogeneousTrainingJob``: one workload, trained on one slice, from its first step or from its last
checkpoint.

The spec says what is trained, on which slice, and with how much of the host; the operator makes an Indexed
Job and a ResourceClaimTemplate from it. What decides the result cannot be changed afterwards, because a
checkpoint continues it; what decides when it runs (suspend, limits of time) can.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from tessera.api.meta import (
    QUANTITY_RULE,
    ApiModel,
    Column,
    Conditions,
    Count,
    Kind,
    LongText,
    Name,
    ProfileOrGPU,
    Quantity,
    Rule,
    ShortText,
    Timestamp,
    string_type,
)

Scalar = Annotated[Any, WithJsonSchema({"x-kubernetes-preserve-unknown-fields": True})]
"""A string, an integer, a number or a boolean. A structural schema cannot say "one of these types", so the
operator checks it (condition Failed, reason InvalidWorkload)."""

WORKLOAD_NAME_PATTERN = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
WorkloadName = Annotated[
    str,
    StringConstraints(pattern=WORKLOAD_NAME_PATTERN, max_length=63),
    string_type(
        max_length=63,
        rule=Rule(
            rule=f"self.matches(r'{WORKLOAD_NAME_PATTERN}')",
            message="a workload's name has small letters, digits and hyphens, such as noiser",
        ),
    ),
]


HOST_MEMORY_MINIMUM = "64Mi"
HostMemory = Annotated[
    int | str,
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            "x-kubernetes-validations": [
                QUANTITY_RULE.as_schema(),
                Rule(
                    rule=f"type(self) == int ? self >= {64 * 2**20} : !isQuantity(self) || "
                    f"quantity(self).compareTo(quantity('{HOST_MEMORY_MINIMUM}')) >= 0",
                    message=f"less than {HOST_MEMORY_MINIMUM}, with which no container starts; give the "
                    "worker some Gi, such as 4Gi",
                ).as_schema(),
            ],
        }
    ),
]
"""Memory of the host for a worker. Below the minimum the container runtime cannot even start it: the pod
would wait for ever."""


def immutable(field: str, *, optional: bool = False) -> Rule:
    """A rule on the spec: `field` stays as it was created."""
    same = f"self.{field} == oldSelf.{field}"
    if optional:
        same = f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || {same})"
    return Rule(
        rule=same,
        message=f"spec.{field} cannot change, because a checkpoint of the old one would be continued; "
        "make a new job with another name",
    )


class WorkloadSpec(ApiModel):
    """What is trained."""

    rules: ClassVar[tuple[Rule, ...]] = ()

    name: WorkloadName
    """The workload's name; ``tessera-worker list`` shows them."""
    parameters: Annotated[dict[str, Scalar], Field(max_length=64)] = Field(default_factory=dict)
    """The workload's parameters: each a string, a number or a boolean. An unknown one fails the job and is
    named."""
    size: Literal["ci", "slice", "full"] = "slice"
    """How big: ci ends in seconds, slice is made for one slice of a GPU, full is the published size."""


class SliceRequest(ApiModel):
    """Which slice of a GPU."""

    profile: ProfileOrGPU
    """The MIG profile; or `gpu`: a GPU as a whole, of those whose MIG mode is off."""


class Resources(ApiModel):
    """What the worker gets."""

    slice: SliceRequest
    """The slice of a GPU."""
    cpu: Quantity = 1
    """CPUs. A whole number is also the limit (so the pod is Guaranteed); a fraction may use idle CPUs beside
    it. OMP_NUM_THREADS is this, rounded up."""
    host_memory: HostMemory = "4Gi"
    """Memory of the host, request and limit at once; at least 64Mi."""


class Checkpoint(ApiModel):
    """When the worker saves its state (it always does so when it is stopped)."""

    every_steps: Annotated[int, Field(ge=1, le=10_000_000)]
    """Save after each so many steps."""


class Output(ApiModel):
    """Where results and checkpoints go."""

    persistent_volume_claim: Annotated[str, StringConstraints(max_length=253, min_length=1)]
    """A PersistentVolumeClaim of the same namespace. The job writes below a directory of its own name."""


class HeterogeneousTrainingJobSpec(ApiModel):
    """What to train, on which slice, and for how long."""

    rules: ClassVar[tuple[Rule, ...]] = (
        immutable("workload"),
        immutable("resources"),
        immutable("seed"),
        immutable("output", optional=True),
        immutable("image", optional=True),
        immutable("checkpoint", optional=True),
    )

    workload: WorkloadSpec
    """What is trained. Cannot change."""
    seed: Annotated[int, Field(ge=0, le=2_147_483_647)] = 0
    """The seed of everything random. Cannot change."""
    image: Annotated[str, StringConstraints(max_length=512, min_length=1)] | None = None
    """The worker's image; absent: the operator's default. Cannot change."""
    resources: Resources
    """Slice, CPU and memory. Cannot change."""
    checkpoint: Checkpoint | None = None
    """When to save; absent: the workload's own rhythm. Cannot change."""
    output: Output | None = None
    """Where results and checkpoints go. Absent: into the pod, so they are lost when the pod goes, and a pod
    that is restarted begins again. Cannot change."""
    suspend: bool = False
    """True stops the worker after it has saved its state and gives the slice back; false goes on from
    there."""
    backoff_limit: Annotated[int, Field(ge=0, le=100)] = 3
    """Failures after which the job fails. Preemptions and evictions do not count."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """The job fails when it has been active for longer, waiting for a slice included."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """After that long the finished job is deleted, with all that belongs to it; its output stays."""


class Progress(ApiModel):
    """How far the worker is; read from it at most every 5 seconds."""

    phase: ShortText | None = None
    """The workload's own name of what it does now."""
    step: Count | None = None
    """Steps done."""
    steps: Count | None = None
    """Steps in all."""
    loss: float | None = None
    """The last loss."""
    steps_per_second: Annotated[float, Field(ge=0)] | None = None
    """Speed now."""
    eta_seconds: Annotated[float, Field(ge=0)] | None = None
    """Seconds to go."""
    checkpoint_step: Count | None = None
    """The step of the last checkpoint."""
    resumed_from_step: Count | None = None
    """The step from which this pod went on."""


class PlacementStatus(ApiModel):
    """Which slice the job holds."""

    node: Name | None = None
    """The node."""
    gpu: ShortText | None = None
    """The GPU's UUID."""
    profile: ShortText | None = None
    """The slice's profile."""
    start: Annotated[int, Field(ge=0, le=63)] | None = None
    """The memory slice at which it begins."""
    device: ShortText | None = None
    """The device's name in the ResourceSlice."""
    claim: Name | None = None
    """The ResourceClaim that holds it."""


class PodStatus(ApiModel):
    """The pod that trains."""

    name: Name
    """Its name, for `kubectl logs`."""
    uid: ShortText
    """Its UID."""


class CheckCounts(ApiModel):
    """How many of the workload's gate checks held."""

    passed: Count = 0
    """Checks that held."""
    failed: Count = 0
    """Checks that did not."""


class Result(ApiModel):
    """What the worker said when it ended."""

    checks: CheckCounts | None = None
    """The workload's gate checks."""
    metrics: Annotated[dict[str, float], Field(max_length=64)] = Field(default_factory=dict)
    """What the workload measured."""
    result_path: Annotated[str, StringConstraints(max_length=1024)] | None = None
    """Where result.json is, inside the output."""
    message: LongText | None = None
    """What the worker said."""
    finished_at: Timestamp | None = None
    """When it ended."""


class HeterogeneousTrainingJobStatus(ApiModel):
    """How the job is getting on."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The generation that this status is about."""
    conditions: Conditions = Field(default_factory=list)
    """Ready (the summary), Admitted, Placed, Running, Suspended, Complete, Failed."""
    progress: Progress | None = None
    """How far the worker is."""
    placement: PlacementStatus | None = None
    """The slice that the job holds, or held last."""
    result: Result | None = None
    """What came of it."""
    restarts: Annotated[int, Field(ge=0)] | None = None
    """Pods that ended early and were replaced; suspending does not count."""
    pod: PodStatus | None = None
    """The pod that trains, or trained last."""
    job_name: Name | None = None
    """The Job that runs it."""


HETEROGENEOUS_TRAINING_JOB = Kind(
    kind="HeterogeneousTrainingJob",
    plural="heterogeneoustrainingjobs",
    singular="heterogeneoustrainingjob",
    short_names=("htj",),
    scope="Namespaced",
    spec=HeterogeneousTrainingJobSpec,
    status=HeterogeneousTrainingJobStatus,
    description="One workload trained on one slice of a GPU, with checkpoints.",
    columns=(
        Column(name="Profile", json_path=".spec.resources.slice.profile"),
        Column(name="Status", json_path='.status.conditions[?(@.type=="Ready")].reason'),
        Column(name="Step", json_path=".status.progress.step", type="integer"),
        Column(name="Steps", json_path=".status.progress.steps", type="integer"),
        Column(name="Node", json_path=".status.placement.node", wide=True),
        Column(name="Age", json_path=".metadata.creationTimestamp", type="date"),
    ),
    selectable_fields=(".spec.workload.name", ".spec.resources.slice.profile"),
    rules=(
        Rule(
            rule="size(self.metadata.name) <= 52 && "
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            message="metadata.name becomes part of pod names and labels: at most 52 characters, small "
            "letters, digits and hyphens, beginning with a letter",
        ),
    ),
)
