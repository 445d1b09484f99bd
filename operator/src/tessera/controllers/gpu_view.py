"""The cluster's GPUs as one value: what the agents report, what the ResourceSlices offer, what the claims
hold.

The ResourceSlices already say everything about legal placements: each device is one (profile, start) of one
GPU, and the counters it consumes say what excludes what. So room is counted with them, by the rule the
scheduler and kube-scheduler use, and no table of MIG profiles is needed here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tessera.api import names

Object = Mapping[str, Any]


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

    def profiles(self) -> frozenset[str]:
        """All profiles of this GPU."""
        return frozenset(device.profile for device in self.devices)

    def starts(self, profile: str) -> tuple[int, ...]:
        """Where slices of that profile may begin."""
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
        return all(
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
        for reported in (gpu_node.get("status") or {}).get("gpus") or ():
            found.append(_gpu(node, reported, devices, counters, held))
    return tuple(sorted(found, key=lambda gpu: (gpu.node, gpu.index, gpu.uuid)))


def _gpu(
    node: str,
    reported: Object,
    devices: Mapping[tuple[str, str], Sequence[tuple[str, Device]]],
    counters: Mapping[tuple[str, str], Mapping[str, int]],
    held: Mapping[str, frozenset[str]],
) -> GPU:
    uuid = str(reported["uuid"])
    offered = devices.get((node, uuid), ())
    instances = reported.get("instances") or ()
    on_claims = held.get(node, frozenset())
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
    )


def _amounts(counters: Object) -> dict[str, int]:
    return {name: int(str(counter["value"])) for name, counter in counters.items()}


def results_of(claim: Object) -> Sequence[Object]:
    """What the claim holds: the results of its allocation, of any driver; none before it is allocated."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    return allocation.get("devices", {}).get("results") or ()


def _held(claims: Iterable[Object]) -> dict[str, frozenset[str]]:
    """Pool -> names of the devices that claims hold."""
    found: dict[str, set[str]] = defaultdict(set)
    for claim in claims:
        for result in results_of(claim):
            if result.get("driver") == names.DRIVER:
                found[result["pool"]].add(result["device"])
    return {pool: frozenset(devices) for pool, devices in found.items()}
