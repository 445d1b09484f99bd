"""``MIGPartition``: GPUs that belong together, the room that stays free on them, and their MIG mode.

A partition selects GPUs by node and by GPU; each GPU belongs to one partition at most. In ``dynamic`` mode
slices are cut when a pod needs one and reused while they fit, and reserves say which should stay possible. In
``static`` mode every GPU has a fixed layout; ``update`` says how a change of it goes over the nodes
(docs/partitions.md). GPUs without a partition are cut on demand, without reserves
(docs/decisions/gpus-without-a-partition.md).
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, WithJsonSchema

from tessera.api.meta import (
    ApiModel,
    Column,
    Conditions,
    Kind,
    LongText,
    Name,
    Profile,
    Rule,
    ShortText,
    Timestamp,
)

BEGUN_LIMIT = 1000
"""Nodes in change at a time, whatever maxUnavailable says: they stand in the status."""

LabelValue = Annotated[str, StringConstraints(max_length=63)]
LabelKey = Annotated[str, StringConstraints(max_length=317)]


class LabelRequirement(ApiModel):
    """One requirement on a label."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : "
            "!has(self.values) || size(self.values) == 0",
            message="operators In and NotIn need values; Exists and DoesNotExist must have none",
        ),
    )

    key: LabelKey
    """The label's key."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How key and values relate."""
    values: Annotated[list[LabelValue], Field(max_length=64)] | None = None
    """The values for In and NotIn."""


class NodeSelector(ApiModel):
    """A label selector over nodes; all of it must match. Empty or absent: every node."""

    match_labels: Annotated[dict[str, LabelValue], Field(max_length=32)] | None = None
    """Labels that a node must have, with these values."""
    match_expressions: Annotated[list[LabelRequirement], Field(max_length=16)] | None = None
    """Requirements that a node's labels must meet."""


class GPUFilter(ApiModel):
    """Which GPUs of the selected nodes; all that is given must match."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="has(self.models) || has(self.indexes)",
            message="give models or indexes, or leave gpus out to select every GPU of the nodes",
        ),
    )

    models: Annotated[list[ShortText], Field(max_length=16, min_length=1)] | None = None
    """Models as ``GPUNode.status.gpus[].model`` spells them, such as H100-80GB."""
    indexes: (
        Annotated[list[Annotated[int, Field(ge=0, le=63)]], Field(max_length=64, min_length=1)] | None
    ) = None
    """NVML indexes on their node."""


class Reserve(ApiModel):
    """Room to keep free."""

    profile: Profile
    """Which slices."""
    count: Annotated[int, Field(ge=1, le=100_000)] = 1
    """How many, over all GPUs of the partition."""


class Moves(ApiModel):
    """Movable pods may be evicted to make room for others. Only pods of an Indexed Job with the annotation
    tessera.dev/movable are moved, within the GPUs of the partition, as PodDisruptionBudgets allow."""

    max_victims: Annotated[int, Field(ge=1, le=3)] = 2
    """How many pods may leave for one that waits."""
    per_100_placements: Annotated[int, Field(ge=0, le=100)] = 5
    """The ration: moves for each 100 slices placed on these GPUs. 0: none; preemption may still happen."""
    per_hour: Annotated[int, Field(ge=0, le=100_000)] = 60
    """Moves and preemptions in an hour at most."""
    replacement_timeout_seconds: Annotated[int, Field(ge=30, le=3600)] = 300
    """How long a place is held for the replacement of an evicted pod."""
    preemption: Literal["Never", "LowerPriority"] = "Never"
    """LowerPriority: where moves make no room, movable pods of lower priority are evicted, and no place is
    held for them. A pod whose preemptionPolicy is Never preempts nobody."""


class Defragmentation(ApiModel):
    """While no pod waits for these GPUs, movable pods are moved so that other GPUs become empty, within what
    moves allow."""

    every_seconds: Annotated[int, Field(ge=60, le=86_400)] = 600
    """How often such moves are looked for."""
    max_moves: Annotated[int, Field(ge=1, le=8)] = 2
    """How many pods may be moved at a time."""


class Dynamic(ApiModel):
    """Slices are cut on demand."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!has(self.defragmentation) || (has(self.moves) && self.moves.per100Placements > 0)",
            message="defragmentation moves running pods: give moves with per100Placements above 0, or remove "
            "defragmentation",
        ),
    )

    reserves: Annotated[
        list[Reserve],
        Field(
            max_length=32,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["profile"],
            },
        ),
    ] = Field(default_factory=list)
    """Slices that should stay possible. Each is checked by itself; when the free room cannot hold one of
    them, the condition ReservesMet says which."""
    moves: Moves | None = None
    """Whether and how often running pods may be moved to make room. Absent: nothing is moved."""
    defragmentation: Defragmentation | None = None
    """Whether GPUs are emptied by moves while nobody waits. Absent: pods move only for one that waits."""


class LayoutItem(ApiModel):
    """Slices of one profile in a fixed layout."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="!(has(self.start) && has(self.count) && self.count > 1)",
            message="start names one place, so it cannot go with a count above 1; write one item per start",
        ),
    )

    profile: Profile
    """Which slices."""
    start: Annotated[int, Field(ge=0, le=15)] | None = None
    """The memory slice at which it begins; absent: chosen on each GPU so that most of what is there stays."""
    count: Annotated[int, Field(ge=1, le=16)] | None = None
    """How many of them; 1 when absent."""


class Static(ApiModel):
    """Every GPU of the partition has this layout."""

    layout: Annotated[list[LayoutItem], Field(max_length=16, min_length=1)]
    """All slices of one GPU; others there go."""


MaxUnavailable = Annotated[
    int | str,
    WithJsonSchema(
        {
            "x-kubernetes-int-or-string": True,
            "maxLength": 4,
            "x-kubernetes-validations": [
                Rule(
                    rule="type(self) == int ? self >= 1 : self.matches('^([1-9][0-9]?|100)%$')",
                    message="not a number of nodes from 1, nor a percentage from 1% to 100%",
                ).as_schema()
            ],
        }
    ),
]


class Drain(ApiModel):
    """What becomes of pods on slices that have to go."""

    policy: Literal["Never", "Evict"] = "Never"
    """Never: a node is begun when no claim holds what has to go. Evict: the pods of such claims are evicted,
    as PodDisruptionBudgets allow; pods on other slices of the GPU stay."""
    timeout_seconds: Annotated[int, Field(ge=1, le=86_400)] = 600
    """How long a node may take for the layout after it was begun, such as while slices that have to go are in
    use or its agent is dead; then the node has failed."""


class Update(ApiModel):
    """How a change of layout, or MIG mode off, goes over the nodes. The first node that fails stops it."""

    max_unavailable: MaxUnavailable = 1
    """Nodes that may be in change at a time: a number, or a percentage (rounded down, at least 1)."""
    drain: Drain = Field(default_factory=Drain)
    """What becomes of pods on slices that have to go."""


class MIGPartitionSpec(ApiModel):
    """Which GPUs, the room to keep free on them, and their MIG mode."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            rule="self.mode == 'static' || !has(self.static)",
            message="static is given but mode is dynamic: set mode: static or remove static",
        ),
        Rule(
            rule="self.mode == 'dynamic' || has(self.static)",
            message="mode static needs static.layout, the list of slices of one GPU",
        ),
        Rule(
            rule="self.mode == 'dynamic' || !has(self.dynamic)",
            message="dynamic is given but mode is static: set mode: dynamic or remove dynamic",
        ),
        Rule(
            rule="self.mode == 'static' || self.migMode == 'Disabled' || !has(self.update)",
            message="update is given but mode is dynamic: set mode: static or migMode: Disabled, or remove "
            "update",
        ),
        Rule(
            rule="self.mode == 'dynamic' || self.migMode != 'Disabled'",
            message="mode static needs MIG: set migMode to Enabled or Unmanaged",
        ),
    )

    node_selector: NodeSelector | None = None
    """The nodes, by label. Absent or empty: every node with a GPU."""
    gpus: GPUFilter | None = None
    """The GPUs of these nodes. Absent: all."""
    mode: Literal["dynamic", "static"] = "dynamic"
    """dynamic: slices are cut when a pod needs them. static: every GPU has a fixed layout."""
    dynamic: Dynamic | None = None
    """Settings of mode dynamic."""
    static: Static | None = None
    """Settings of mode static."""
    update: Update | None = None
    """How a change of a static layout, or MIG mode off, goes over the nodes. Absent: one node at a time,
    draining nothing."""
    mig_mode: Literal["Enabled", "Disabled", "Unmanaged"] = "Enabled"
    """Enabled: the agent switches MIG on where it is off and the GPU is idle. Disabled: node by node, as
    `update` says, it switches MIG off when no slice of the GPU is used. Unmanaged: it leaves the mode as it
    is."""
    dry_run: bool = False
    """Show in the status what would be selected and changed, and have no GPU: their owner, reserves, layout
    and MIG mode stay as they are without this object."""


class ProfileCount(ApiModel):
    """Slices of one profile."""

    profile: ShortText
    """The profile."""
    in_use: Annotated[int, Field(ge=0)] = 0
    """Slices that a claim holds."""
    warm: Annotated[int, Field(ge=0)] = 0
    """Slices that exist and that nobody holds."""
    placeable: Annotated[int, Field(ge=0)] = 0
    """GPUs in which one more would fit now."""


class PartitionGPUs(ApiModel):
    """How many GPUs the partition has."""

    selected: Annotated[int, Field(ge=0)] = 0
    """GPUs that its selectors match."""
    owned: Annotated[int, Field(ge=0)] = 0
    """Those of them that no other partition has."""
    ready: Annotated[int, Field(ge=0)] = 0
    """Those of them that are healthy and have the MIG mode that the partition wants."""


class NodeInChange(ApiModel):
    """A node that was begun."""

    node: Name
    """The node."""
    since: Timestamp
    """When it was begun."""


class LayoutProgress(ApiModel):
    """How far the nodes are with a static layout."""

    nodes: Annotated[int, Field(ge=0)] = 0
    """Nodes with GPUs of the partition."""
    updated: Annotated[int, Field(ge=0)] = 0
    """Those whose GPUs have the layout."""
    changing: Annotated[int, Field(ge=0)] = 0
    """Those that were begun, or whose agent has not reported the layout yet."""
    blocked: Annotated[int, Field(ge=0)] = 0
    """Those that cannot be begun now."""
    failed: Annotated[int, Field(ge=0)] = 0
    """Those whose agent could not make the layout, or that have not got it in time."""
    summary: ShortText = ""
    """Updated nodes of all, for `kubectl get`."""
    begun: Annotated[
        list[NodeInChange],
        Field(
            max_length=BEGUN_LIMIT,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["node"]},
        ),
    ] = Field(default_factory=list)
    """The nodes that may get the layout now. The operator's record, which keeps to maxUnavailable."""
    diff: Annotated[list[LongText], Field(max_length=64)] = Field(default_factory=list)
    """What is still to be changed, GPU by GPU; the first 64."""
    blockers: Annotated[list[LongText], Field(max_length=64)] = Field(default_factory=list)
    """What blocks nodes, with claims and pods; the first 64."""


class MIGPartitionStatus(ApiModel):
    """What the selectors found and how full it is."""

    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The generation that this status is about."""
    conditions: Conditions = Field(default_factory=list)
    """Ready (the summary), NoConflict, ProfilesValid, ReservesMet; in mode static and with MIG mode off
    LayoutApplied."""
    nodes: Annotated[list[Name], Field(max_length=1000)] = Field(default_factory=list)
    """The selected nodes, sorted; the first 1,000."""
    node_count: Annotated[int, Field(ge=0)] | None = None
    """How many nodes are selected."""
    gpus: PartitionGPUs | None = None
    """How many GPUs are selected."""
    slices: Annotated[
        list[ProfileCount],
        Field(
            max_length=128,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["profile"]},
        ),
    ] = Field(default_factory=list)
    """Slices by profile."""
    in_use: Annotated[int, Field(ge=0)] | None = None
    """Slices that claims hold."""
    free_memory_slices: Annotated[int, Field(ge=0)] | None = None
    """Memory slices that no claim covers."""
    total_memory_slices: Annotated[int, Field(ge=0)] | None = None
    """Memory slices of all its GPUs."""
    largest_placeable: ShortText | None = None
    """The largest profile for which there is room now."""
    conflicts: Annotated[list[LongText], Field(max_length=64)] = Field(default_factory=list)
    """GPUs that an older partition has, each with its name."""
    layout: LayoutProgress | None = None
    """How far the nodes are with a static layout, or with MIG mode off. While that cannot be had only the
    nodes that were begun before stand there; absent for GPUs that are cut on demand."""


MIG_PARTITION = Kind(
    kind="MIGPartition",
    plural="migpartitions",
    singular="migpartition",
    short_names=("mig",),
    scope="Cluster",
    spec=MIGPartitionSpec,
    status=MIGPartitionStatus,
    description="GPUs that belong together: the room that stays free on them, their MIG mode, and how full "
    "they are.",
    columns=(
        Column(name="GPUs", json_path=".status.gpus.owned", type="integer", description="GPUs it has"),
        Column(
            name="Updated", json_path=".status.layout.summary", description="nodes with the static layout"
        ),
        Column(name="In Use", json_path=".status.inUse", type="integer", description="slices held by claims"),
        Column(
            name="Largest Free",
            json_path=".status.largestPlaceable",
            description="largest profile that fits now",
        ),
        Column(name="Status", json_path='.status.conditions[?(@.type=="Ready")].reason'),
        Column(name="Age", json_path=".metadata.creationTimestamp", type="date"),
    ),
    selectable_fields=(".spec.mode",),
)
