"""``GPUNode``: one per node with GPUs; the operator says what is wanted, that node's agent says what is.

The object has its node's name. The agent makes it and alone writes its status: the only thing it writes
beside its ResourceSlices. The operator writes the spec: which partition has each GPU.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tessera.api.meta import ApiModel, Column, Conditions, Kind, Name, ShortText, Timestamp

MIGMode = Literal["Enabled", "Disabled", "EnablePending", "DisablePending"]
PREPARE_FAILURES_LIMIT = 16
"""Failed claims that a status names: enough to see what is wrong with a node."""
InstanceState = Literal["InUse", "Warm", "Foreign"]
LayoutState = Literal["Applied", "Changing", "Blocked", "Failed"]


class Place(ApiModel):
    """A profile at a start."""

    profile: ShortText
    """The profile."""
    start: Annotated[int, Field(ge=0, le=63)]
    """The memory slice at which it begins."""


class DesiredGPU(ApiModel):
    """What one GPU is to be."""

    uuid: ShortText
    """The GPU, as NVML names it."""
    partition: Name
    """The MIGPartition that has it."""
    mig_mode: Literal["Enabled", "Disabled", "Unmanaged"] = "Enabled"
    """Enabled: switch MIG on where it is off and the GPU is idle. Disabled: switch it off where it is on and
    the GPU is idle. Unmanaged: leave the mode as it is."""
    layout: (
        Annotated[
            list[Place],
            Field(
                max_length=64,
                json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["start"]},
            ),
        ]
        | None
    ) = None
    """The slices that are to exist, these and no others. Absent: they are cut on demand."""
    layout_generation: Annotated[int, Field(ge=0)] | None = None
    """The generation of this object that gave the GPU its layout: it tells one layout from the next."""


class GPUNodeSpec(ApiModel):
    """What the GPUs of the node are to be; written by the operator."""

    gpus: Annotated[
        list[DesiredGPU],
        Field(
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uuid"]},
        ),
    ] = Field(default_factory=list)
    """The GPUs that a partition has. A GPU that is missing here belongs to none; it is offered all the same,
    without reserves."""


class DriverInfo(ApiModel):
    """The driver of the node."""

    version: ShortText | None = None
    """The driver's version."""
    nvml: ShortText | None = None
    """NVML's version."""
    simulated: bool = False
    """True where the simulator stands in for a GPU."""


class ClaimHolder(ApiModel):
    """A ResourceClaim."""

    namespace: Name
    """Its namespace."""
    name: Name
    """Its name."""
    uid: ShortText
    """Its UID."""


class Instance(ApiModel):
    """One MIG instance (GPU instance and compute instance); or a GPU as a whole that a claim holds."""

    device: ShortText
    """The device's name in the ResourceSlice; for a foreign instance a name made by the same rule."""
    profile: ShortText
    """Its profile; `gpu` of a GPU as a whole."""
    start: Annotated[int, Field(ge=0, le=63)]
    """The memory slice at which it begins."""
    size: Annotated[int, Field(ge=1, le=64)]
    """Its width in memory slices."""
    uuid: ShortText | None = None
    """The UUID that CUDA sees: of the MIG device, or of the GPU."""
    gpu_instance_id: Annotated[int, Field(ge=0)] | None = None
    """NVML's id of the GPU instance."""
    compute_instance_id: Annotated[int, Field(ge=0)] | None = None
    """NVML's id of the compute instance."""
    state: InstanceState
    """InUse: a claim holds it. Warm: kept for the next claim. Foreign: not made by Tessera, never touched."""
    claim: ClaimHolder | None = None
    """Who holds it; only with InUse."""


class PrepareFailure(ApiModel):
    """A claim whose slice the agent could not cut when the kubelet asked for it last."""

    claim: ClaimHolder
    """The claim."""
    message: Annotated[str, Field(max_length=1024)]
    """Why, and what to do."""
    since: Timestamp
    """When it failed first; the kubelet has tried again since then."""


class ObservedLayout(ApiModel):
    """How far the agent is with the layout that the spec demands."""

    generation: Annotated[int, Field(ge=0)] | None = None
    """Which layout that is: its `layoutGeneration` in the spec."""
    state: LayoutState
    """Applied: it stands. Changing: it is not there yet, because the driver does not answer now (a change
    takes seconds and is told when it is done). Blocked: slices that have to go are in use or not Tessera's,
    or the GPU cannot be cut now; nothing is changed until then. Failed: the GPU cannot have this layout, or
    the driver refused, and the GPU has its former slices; it is tried again after a change of the spec or of
    the GPU, by a new agent, and every 5 minutes."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """What blocks or failed, and what to do."""
    blockers: Annotated[list[ClaimHolder], Field(max_length=64)] = Field(default_factory=list)
    """The claims that hold slices which have to go."""


class ObservedGPU(ApiModel):
    """One GPU as its driver reports it."""

    index: Annotated[int, Field(ge=0, le=63)]
    """NVML's index; it may change after a GPU is lost."""
    uuid: ShortText
    """NVML's name of it; this one stays."""
    model: ShortText | None = None
    """The model in Tessera's table of profiles; an unknown board has its product name here."""
    product_name: ShortText | None = None
    """The name that the driver gives."""
    mig_mode: MIGMode | None = None
    """MIG mode, with a change that waits for a reset or reboot."""
    memory_slices: Annotated[int, Field(ge=0, le=64)] | None = None
    """Memory slices of the GPU."""
    compute_slices: Annotated[int, Field(ge=0, le=64)] | None = None
    """Compute slices of the GPU."""
    healthy: bool | None = None
    """False while it may take no new work: it is lost, needs a reset, or its driver hangs."""
    health_message: Annotated[str, Field(max_length=1024)] | None = None
    """What is wrong, since when, and what to do; also where only one of its slices is concerned."""
    instances: Annotated[list[Instance], Field(max_length=64)] = Field(default_factory=list)
    """What it is cut into now."""
    layout: ObservedLayout | None = None
    """Present where the spec demands a layout, or MIG mode off, which is one without slices."""


class CuttableProfile(ApiModel):
    """A profile of a model, with what an instance of it takes."""

    profile: ShortText
    """Its name."""
    starts: Annotated[list[Annotated[int, Field(ge=0, le=63)]], Field(max_length=64)]
    """The memory slices at which it may begin."""
    memory_slices: Annotated[int, Field(ge=1, le=64)]
    """Its width."""
    compute_slices: Annotated[int, Field(ge=0, le=64)]
    """Compute slices that it takes."""
    media_extensions: bool = False
    """Whether it takes the media extensions, which a GPU has once."""
    media_engines: Annotated[int, Field(ge=0)] = 0
    """Media engines that it takes, where they can run out before the slices do."""


class CuttableModel(ApiModel):
    """What a GPU of one model can be cut into, whatever it is cut into now."""

    model: ShortText
    """As `gpus[].model` spells it."""
    memory_slices: Annotated[int, Field(ge=1, le=64)]
    """Memory slices of the GPU."""
    compute_slices: Annotated[int, Field(ge=0, le=64)]
    """Compute slices of the GPU."""
    media_engines: Annotated[int, Field(ge=0)] = 0
    """Media engines of the GPU; 0 where they cannot run out before the slices do."""
    profiles: Annotated[list[CuttableProfile], Field(max_length=64)]
    """Its profiles."""


class GPUNodeStatus(ApiModel):
    """Inventory, instances and health; written by the node's agent."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The generation that this status is about."""
    conditions: Conditions = Field(default_factory=list)
    """Ready (the summary)."""
    driver: DriverInfo | None = None
    """The driver, when it answers."""
    gpus: Annotated[
        list[ObservedGPU],
        Field(
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uuid"]},
        ),
    ] = Field(default_factory=list)
    """The node's GPUs."""
    models: Annotated[
        list[CuttableModel],
        Field(
            max_length=64,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["model"]},
        ),
    ] = Field(default_factory=list)
    """The models of these GPUs. ResourceSlices do not say it: a GPU with a layout offers that alone, and one
    with MIG off itself."""
    gpu_count: Annotated[int, Field(ge=0, le=64)] | None = None
    """How many GPUs that is, for `kubectl get`, which cannot count; absent before the driver has answered."""
    slices_in_use: Annotated[int, Field(ge=0)] | None = None
    """How many of their instances claims hold."""
    prepare_failures: Annotated[list[PrepareFailure], Field(max_length=PREPARE_FAILURES_LIMIT)] = Field(
        default_factory=list
    )
    """Claims that could not be prepared, the latest ones. One goes when the claim is prepared or released, or
    when the kubelet has not asked for it for 10 minutes."""


GPU_NODE = Kind(
    kind="GPUNode",
    plural="gpunodes",
    singular="gpunode",
    short_names=("gn",),
    scope="Cluster",
    spec=GPUNodeSpec,
    spec_required=False,
    status=GPUNodeStatus,
    description="The GPUs of one node: what is wanted (by the operator) and what is (by the node's agent).",
    columns=(
        Column(name="GPU", json_path=".status.gpus[0].productName", description="the first GPU"),
        Column(name="GPUs", json_path=".status.gpuCount", type="integer", description="how many GPUs"),
        Column(
            name="In Use",
            json_path=".status.slicesInUse",
            type="integer",
            description="slices held by claims",
        ),
        Column(name="Ready", json_path='.status.conditions[?(@.type=="Ready")].status'),
        Column(name="Reason", json_path='.status.conditions[?(@.type=="Ready")].reason'),
        Column(name="Age", json_path=".metadata.creationTimestamp", type="date"),
    ),
)
