"""The cluster's GPUs as one value: what the agents report, what the ResourceSlices offer, what the claims
hold.

The ResourceSlices say everything about placements on offer: each device is one (profile, start) of one GPU,
and the counters it consumes say what excludes what. So room is counted with them, by the rule the scheduler
and kube-scheduler use. What a GPU could be cut into, its agent's report says. No table of MIG profiles is
needed here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tessera.api import names
from tessera.api.gpu_node import CuttableModel, LayoutState
from tessera.controllers.cuttable import geometry_from
from tessera.placement.geometry import Geometry
from tessera.relayout.plan import Place

Object = Mapping[str, Any]
WHOLE = (Place(0, names.WHOLE_GPU),)
"""What a GPU is cut into whose MIG mode is off."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One legal placement."""

    name: str
    profile: str
    start: int
    memory_slices: int
    compute_slices: int
    uses: Mapping[str, int]
    """Counter -> how much of it."""
    barred: bool = False
    """Its agent lets nothing new be placed there: it is unhealthy, or leaves with its claim."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A slice that a claim holds, whether it was cut already or not."""

    place: Place
    claim: str
    """Namespace and name."""
    pods: tuple[Pod, ...]
    """Those for which the claim is reserved."""


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A pod, as a claim names it."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the GPUNode's spec has a GPU cut into, and what its agent says of it. MIG mode off is one, too."""

    places: tuple[Place, ...]
    state: LayoutState | None
    """None until the agent has reported about this layout."""
    message: str = ""
    generation: int | None = None
    """What the spec calls it by."""


@dataclass(frozen=True, kw_only=True)
class GPU:
    """One GPU with its legal placements and what they leave."""

    node: str
    uuid: str
    index: int
    model: str
    mig_mode: str
    healthy: bool
    memory_slices: int
    devices: tuple[Device, ...] = ()
    counters: Mapping[str, int] = field(default_factory=dict)
    """Counter -> how much there is in all."""
    taken: Mapping[str, int] = field(default_factory=dict)
    """Counter -> how much claims and foreign instances use."""
    in_use: tuple[str, ...] = ()
    """Profiles of the slices that claims hold."""
    warm: tuple[str, ...] = ()
    """Profiles of the instances that nobody holds."""
    geometry: Geometry | None = None
    """What it can be cut into, whatever it offers now; None until its agent has said it."""
    instances: tuple[Place, ...] = ()
    """The instances of ours that are there."""
    foreign: tuple[Place, ...] = ()
    """Instances that Tessera did not make."""
    held: tuple[Held, ...] = ()
    """What claims hold."""
    stranded: tuple[Pod, ...] = ()
    """Pods whose claims hold what is not offered any more and was refused to them: they cannot start here."""
    layout: Layout | None = None
    """None: it is cut on demand."""

    @property
    def without_mig(self) -> bool:
        """Whether it is no GPU for MIG, such as one for a display: it is well, and has no mode."""
        return self.healthy and self.mig_mode == "Unknown"

    def profiles(self) -> frozenset[str]:
        """All profiles of this GPU."""
        if self.geometry is not None:
            return frozenset(self.geometry.profiles)
        return frozenset(device.profile for device in self.devices)

    def starts(self, profile: str) -> tuple[int, ...]:
        """Where slices of that profile may begin."""
        if self.geometry is not None:
            placements = self.geometry.placements
            return tuple(placements[index].start for index in self.geometry.placements_of(profile))
        return tuple(sorted(device.start for device in self.devices if device.profile == profile))

    def placeable(self, profile: str, *, limit: int) -> int:
        """How many slices of that profile (up to `limit`) fit beside what is taken.

        Placements of one profile are equally wide, so taking the lowest start that fits is optimal.
        """
        used = dict(self.taken)
        count = 0
        for device in sorted(self.devices, key=lambda device: device.start):
            if count == limit:
                break
            if device.profile == profile and self._fits(device, used):
                count += 1
                for counter, amount in device.uses.items():
                    used[counter] = used.get(counter, 0) + amount
        return count

    def largest_placeable(self) -> Device | None:
        """The largest slice that fits now, by memory, then by compute."""
        return max(
            (device for device in self.devices if self._fits(device, self.taken)),
            key=lambda device: (device.memory_slices, device.compute_slices),
            default=None,
        )

    def free_memory_slices(self) -> int:
        """Memory slices that nobody uses."""
        return sum(
            max(0, total - self.taken.get(counter, 0))
            for counter, total in self.counters.items()
            if counter.startswith(names.COUNTER_MEMORY_SLICE)
        )

    def _fits(self, device: Device, used: Mapping[str, int]) -> bool:
        return not device.barred and all(
            used.get(counter, 0) + amount <= self.counters.get(counter, 0)
            for counter, amount in device.uses.items()
        )


def gpus_of(
    gpu_nodes: Iterable[Object], resource_slices: Iterable[Object], claims: Iterable[Object]
) -> tuple[GPU, ...]:
    """Every GPU that an agent reports, by node and index."""
    devices, counters = _offered(resource_slices)
    held = _held(claims)
    found: list[GPU] = []
    for gpu_node in gpu_nodes:
        node = gpu_node["metadata"]["name"]
        status = gpu_node.get("status") or {}
        models = [CuttableModel.model_validate(model) for model in status.get("models") or ()]
        geometries = {model.model: geometry_from(model) for model in models}
        layouts = layouts_of(gpu_node)
        refused = {failure["claim"]["uid"] for failure in status.get("prepareFailures") or ()}
        for reported in status.get("gpus") or ():
            gpu = _gpu(node, reported, devices, counters, held, refused)
            found.append(replace(gpu, geometry=geometries.get(gpu.model), layout=layouts.get(gpu.uuid)))
    return tuple(sorted(found, key=lambda gpu: (gpu.node, gpu.index, gpu.uuid)))


def by_node(gpus: Iterable[GPU]) -> dict[str, list[GPU]]:
    """The same GPUs, by node."""
    found: dict[str, list[GPU]] = defaultdict(list)
    for gpu in gpus:
        found[gpu.node].append(gpu)
    return dict(found)


def _gpu(
    node: str,
    reported: Object,
    devices: Mapping[tuple[str, str], Sequence[tuple[str, Device]]],
    counters: Mapping[tuple[str, str], Mapping[str, int]],
    held: Mapping[str, Mapping[str, Sequence[Object]]],
    refused: Collection[str],
) -> GPU:
    uuid = str(reported["uuid"])
    offered = devices.get((node, uuid), ())
    instances = reported.get("instances") or ()
    on_claims = held.get(node, {})
    places = {instance["device"]: _place(instance) for instance in instances}
    places |= {device.name: Place(device.start, device.profile) for _, device in offered}
    foreign = {instance["device"] for instance in instances if instance.get("state") != "Warm"}
    taken: dict[str, int] = defaultdict(int)
    in_use = []
    for _, device in offered:
        if device.name in on_claims:
            in_use.append(device.profile)
        if device.name in on_claims or device.name in foreign:
            for counter, amount in device.uses.items():
                taken[counter] += amount
    counter_sets = {counter_set for counter_set, _ in offered}
    totals: dict[str, int] = {}
    for counter_set in counter_sets:
        totals |= counters.get((node, counter_set), {})
    return GPU(
        node=node,
        uuid=uuid,
        index=int(reported.get("index") or 0),
        model=str(reported.get("model") or reported.get("productName") or "unknown"),
        mig_mode=str(reported.get("migMode") or "Unknown"),
        healthy=bool(reported.get("healthy", True)),
        memory_slices=int(reported.get("memorySlices") or 0),
        devices=tuple(device for _, device in offered),
        counters=totals,
        taken=dict(taken),
        in_use=tuple(sorted(in_use)),
        warm=tuple(sorted(str(i["profile"]) for i in instances if i.get("state") == "Warm")),
        instances=tuple(sorted(_place(i) for i in instances if i.get("state") != "Foreign")),
        foreign=tuple(sorted(_place(i) for i in instances if i.get("state") == "Foreign")),
        held=tuple(
            sorted(
                (
                    _slice_held(place, claim)
                    for name, place in places.items()
                    for claim in on_claims.get(name, ())
                ),
                key=lambda one: (one.place, one.claim),
            )
        ),
        stranded=tuple(
            pod
            for name, on_device in sorted(on_claims.items())
            if name not in places and any(name.startswith(f"{counter_set}-") for counter_set in counter_sets)
            for claim in on_device
            if claim["metadata"]["uid"] in refused
            for pod in _pods_of(claim)
        ),
    )


def _place(item: Object) -> Place:
    return Place(item["start"], item["profile"])


def layouts_of(gpu_node: Object) -> dict[str, Layout]:
    """GPU UUID -> the layout in the spec, with what the agent says of it."""
    reported = (gpu_node.get("status") or {}).get("gpus") or ()
    told = {gpu["uuid"]: gpu.get("layout") or {} for gpu in reported}
    return {
        gpu["uuid"]: _layout(gpu, told.get(gpu["uuid"], {}))
        for gpu in (gpu_node.get("spec") or {}).get("gpus") or ()
        if gpu.get("layout") is not None or gpu["migMode"] == "Disabled"
    }


def _layout(asked: Object, told: Object) -> Layout:
    generation = asked.get("layoutGeneration")
    current = told.get("generation") == generation
    off = asked["migMode"] == "Disabled"
    return Layout(
        places=WHOLE if off else tuple(sorted(map(_place, asked["layout"]))),
        state=told.get("state") if current else None,
        message=(told.get("message") or "") if current else "",
        generation=generation,
    )


def _slice_held(place: Place, claim: Object) -> Held:
    metadata = claim["metadata"]
    return Held(place=place, claim=f"{metadata['namespace']}/{metadata['name']}", pods=_pods_of(claim))


def _pods_of(claim: Object) -> tuple[Pod, ...]:
    namespace = claim["metadata"]["namespace"]
    return tuple(
        Pod(namespace=namespace, name=consumer["name"], uid=consumer["uid"])
        for consumer in claim["status"].get("reservedFor") or ()
        if consumer.get("resource") == "pods"
    )


def _offered(
    resource_slices: Iterable[Object],
) -> tuple[dict[tuple[str, str], list[tuple[str, Device]]], dict[tuple[str, str], dict[str, int]]]:
    """Devices by (pool, GPU UUID), each with its counter set; counters by (pool, counter set).

    Only the newest generation of a pool counts: older slices of it are about to go.
    """
    ours = [s["spec"] for s in resource_slices if s.get("spec", {}).get("driver") == names.DRIVER]
    newest: dict[str, int] = {}
    for spec in ours:
        pool, generation = spec["pool"]["name"], int(spec["pool"].get("generation") or 0)
        newest[pool] = max(newest.get(pool, 0), generation)
    devices: dict[tuple[str, str], list[tuple[str, Device]]] = defaultdict(list)
    counters: dict[tuple[str, str], dict[str, int]] = {}
    for spec in ours:
        pool = spec["pool"]["name"]
        if int(spec["pool"].get("generation") or 0) != newest[pool]:
            continue
        for counter_set in spec.get("sharedCounters") or ():
            counters[pool, counter_set["name"]] = _amounts(counter_set.get("counters") or {})
        for device in spec.get("devices") or ():
            attributes = device.get("attributes") or {}
            uuid = str(attributes.get(names.ATTRIBUTE_GPU_UUID, {}).get("string"))
            consumed = (device.get("consumesCounters") or [{}])[0]
            devices[pool, uuid].append((str(consumed.get("counterSet")), _device(device, consumed)))
    return devices, counters


def _device(device: Object, consumed: Object) -> Device:
    attributes = device.get("attributes") or {}

    def number(name: str) -> int:
        return int(attributes.get(name, {}).get("int") or 0)

    return Device(
        name=device["name"],
        profile=str(attributes.get(names.ATTRIBUTE_PROFILE, {}).get("string")),
        start=number(names.ATTRIBUTE_START),
        memory_slices=number(names.ATTRIBUTE_MEMORY_SLICES),
        compute_slices=number(names.ATTRIBUTE_COMPUTE_SLICES),
        uses=_amounts(consumed.get("counters") or {}),
        barred=any(names.bars_everybody(taint["key"]) for taint in device.get("taints") or ()),
    )


def _amounts(counters: Object) -> dict[str, int]:
    return {name: int(str(counter["value"])) for name, counter in counters.items()}


def results_of(claim: Object) -> Sequence[Object]:
    """What the claim holds: the results of its allocation, of any driver; none before it is allocated."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    return allocation.get("devices", {}).get("results") or ()


def _held(claims: Iterable[Object]) -> dict[str, dict[str, list[Object]]]:
    """Pool -> device -> the claims that hold it."""
    found: dict[str, dict[str, list[Object]]] = defaultdict(lambda: defaultdict(list))
    for claim in claims:
        for result in results_of(claim):
            if result.get("driver") == names.DRIVER:
                found[result["pool"]][result["device"]].append(claim)
    return found
