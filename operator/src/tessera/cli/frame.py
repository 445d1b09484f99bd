"""What `tessera top` shows, as plain values: GPUNodes, training jobs and claims joined into one frame.

Pure. The truth about instances is the GPUNode's status; a claim that is allocated but whose instance is not
cut yet is added from its allocation, so that a placement is seen at the moment the scheduler makes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tessera.api import names
from tessera.gpu.device_names import BadDeviceName, decode, short_uuid
from tessera.gpu.profiles import UnknownModel, UnknownProfile, model
from tessera.kube.conditions import find_condition

Object = Mapping[str, Any]
State = Literal["InUse", "Allocated", "Warm", "Foreign"]


@dataclass(frozen=True)
class Tile:
    """Memory slices [start, start + width) of a GPU that are one instance, or will be."""

    start: int
    width: int
    profile: str
    state: State
    holder: str = ""
    """The training job, else `namespace/name` of the claim; empty when nobody holds it."""
    job: str = ""
    """`namespace/name` of the training job, empty for other claims."""


@dataclass(frozen=True)
class GPU:
    """One GPU and its tiles, by start. Unknown numbers are None."""

    index: int
    uuid: str
    model: str
    mig_mode: str
    healthy: bool
    message: str
    memory_slices: int
    free_slices: int
    largest_free_profile: str | None
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Node:
    """One GPUNode. `problem` is empty while it is ready."""

    name: str
    driver: str
    simulated: bool
    ready: bool
    problem: str
    gpus: tuple[GPU, ...]


@dataclass(frozen=True)
class Job:
    """One HeterogeneousTrainingJob."""

    namespace: str
    name: str
    profile: str
    reason: str
    message: str
    finished: Literal["", "Complete", "Failed"]
    step: int | None
    steps: int | None
    loss: float | None
    eta_seconds: float | None
    where: str
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class WaitingClaim:
    """A claim for one of our slices that has none yet and belongs to no training job."""

    namespace: str
    name: str
    message: str


@dataclass(frozen=True)
class Frame:
    """Everything that is shown at one moment."""

    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]
    waiting: tuple[WaitingClaim, ...]


def build_frame(gpunodes: Iterable[Object], jobs: Iterable[Object], claims: Iterable[Object]) -> Frame:
    """The frame of these objects (raw, as the API server gives them)."""
    jobs = list(jobs)
    claims = list(claims)
    owners = _job_of_claim(jobs, claims)
    allocated = _allocations(claims)
    return Frame(
        nodes=tuple(
            _node(node, owners, allocated)
            for node in sorted(gpunodes, key=lambda item: str(item["metadata"]["name"]))
        ),
        jobs=tuple(_job(job, owners, claims) for job in sorted(jobs, key=_age)),
        waiting=tuple(
            WaitingClaim(claim["metadata"].get("namespace", ""), claim["metadata"]["name"], _reason(claim))
            for claim in sorted(claims, key=_age)
            if _is_ours(claim) and not _results(claim) and _claim_key(claim) not in owners
        ),
    )


def _age(obj: Object) -> tuple[str, str, str]:
    metadata = obj["metadata"]
    return metadata.get("creationTimestamp", ""), metadata.get("namespace", ""), metadata["name"]


def _claim_key(claim: Object) -> tuple[str, str]:
    return claim["metadata"].get("namespace", ""), claim["metadata"]["name"]


def _job_of_claim(jobs: list[Object], claims: list[Object]) -> dict[tuple[str, str], str]:
    """(namespace, claim) -> "namespace/job", by the claim's label or what the job's status says."""
    found = {}
    for claim in claims:
        job = (claim["metadata"].get("labels") or {}).get(names.TRAINING_JOB_LABEL)
        if job:
            found[_claim_key(claim)] = f"{claim['metadata'].get('namespace', '')}/{job}"
    for item in jobs:
        claim_name = ((item.get("status") or {}).get("placement") or {}).get("claim")
        if claim_name:
            space = item["metadata"].get("namespace", "")
            found[space, claim_name] = f"{space}/{item['metadata']['name']}"
    return found


def _is_ours(claim: Object) -> bool:
    requests = ((claim.get("spec") or {}).get("devices") or {}).get("requests") or []
    classes = [
        choice.get("deviceClassName")
        for request in requests
        for choice in [request.get("exactly") or {}, *(request.get("firstAvailable") or [])]
    ]
    return names.DEVICE_CLASS in classes


def _results(claim: Object) -> list[Object]:
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or []
    return [result for result in results if result.get("driver") == names.DRIVER]


def _allocations(claims: list[Object]) -> dict[str, list[tuple[str, Object]]]:
    """Node -> the (device, claim) pairs that are allocated on it."""
    found: dict[str, list[tuple[str, Object]]] = {}
    for claim in claims:
        for result in _results(claim):
            found.setdefault(result["pool"], []).append((result["device"], claim))
    return found


def _reason(claim: Object) -> str:
    text = (claim["metadata"].get("annotations") or {}).get(names.PLACEMENT_MESSAGE_ANNOTATION)
    if not text:
        return ""
    try:
        said = json.loads(text)
    except ValueError:
        return str(text)
    return str(said.get("message") or said.get("reason") or "") if isinstance(said, dict) else str(said)


def _node(
    node: Object, owners: Mapping[tuple[str, str], str], allocated: Mapping[str, list[tuple[str, Object]]]
) -> Node:
    name = str(node["metadata"]["name"])
    status = node.get("status") or {}
    driver = status.get("driver") or {}
    condition = find_condition(status.get("conditions"), "Ready") or {}
    ready = condition.get("status") == "True"
    problem = (
        f"{condition.get('reason', '')}: {condition.get('message', '')}" if condition else "no agent yet"
    )
    gpus = sorted(status.get("gpus") or [], key=lambda gpu: int(gpu["index"]))
    return Node(
        name=name,
        driver=str(driver.get("version") or ""),
        simulated=bool(driver.get("simulated")),
        ready=ready,
        problem="" if ready else problem,
        gpus=tuple(_gpu(gpu, owners, allocated.get(name, [])) for gpu in gpus),
    )


def _gpu(gpu: Object, owners: Mapping[tuple[str, str], str], allocated: list[tuple[str, Object]]) -> GPU:
    tiles = [_instance_tile(instance, owners) for instance in gpu.get("instances") or []]
    cut = {
        ((instance.get("claim") or {}).get("uid"), instance["device"])
        for instance in gpu.get("instances") or []
    }
    slices = int(gpu.get("memorySlices") or 0)
    model_name = str(gpu.get("model") or gpu.get("productName") or "unknown")
    for device, claim in allocated:
        if (claim["metadata"].get("uid"), device) in cut:
            continue
        tile = _allocated_tile(device, claim, gpu, model_name, owners)
        if tile is not None and not any(_overlap(tile, other) for other in tiles if other.state != "Warm"):
            # A warm instance in the way is reused or destroyed by the agent in a moment.
            tiles = [other for other in tiles if not _overlap(tile, other)] + [tile]
    tiles.sort(key=lambda tile: tile.start)
    taken = [tile for tile in tiles if tile.state != "Warm"]
    largest = largest_free_profile(model_name, taken)
    if gpu.get("migMode") == "Disabled":
        largest = None if taken else names.WHOLE_GPU
    return GPU(
        index=int(gpu["index"]),
        uuid=str(gpu["uuid"]),
        model=model_name,
        mig_mode=str(gpu.get("migMode") or ""),
        healthy=gpu.get("healthy") is not False,
        message=str(gpu.get("healthMessage") or ""),
        memory_slices=slices,
        free_slices=slices - sum(tile.width for tile in taken),
        largest_free_profile=largest,
        tiles=tuple(tiles),
    )


def largest_free_profile(model_name: str, taken: Iterable[Tile]) -> str | None:
    """The profile with most memory (then compute) that still fits beside the taken tiles, if any.

    Also None for a model that is not in the profile table.
    """
    try:
        geometry = model(model_name)
        tiles = list(taken)
        compute_left = geometry.compute_slices - sum(
            geometry.profile(tile.profile).compute_slices for tile in tiles
        )
    except (UnknownModel, UnknownProfile):
        return None
    mask = sum(((1 << tile.width) - 1) << tile.start for tile in tiles)
    fitting = [
        placement.profile
        for placement in geometry.placements()
        if not placement.mask & mask
        and placement.profile.compute_slices <= compute_left
        and not placement.profile.media_extensions
    ]
    best = max(fitting, key=lambda profile: (profile.memory_slices, profile.compute_slices), default=None)
    return best.name if best is not None else None


def _overlap(one: Tile, other: Tile) -> bool:
    return one.start < other.start + other.width and other.start < one.start + one.width


def _instance_tile(instance: Object, owners: Mapping[tuple[str, str], str]) -> Tile:
    claim = instance.get("claim") or {}
    job = owners.get((claim.get("namespace", ""), claim.get("name", "")), "")
    return Tile(
        start=int(instance["start"]),
        width=int(instance["size"]),
        profile=str(instance["profile"]),
        state=instance["state"],
        holder=_holder(job, claim.get("namespace", ""), claim.get("name", "")),
        job=job,
    )


def _allocated_tile(
    device: str, claim: Object, gpu: Object, model_name: str, owners: Mapping[tuple[str, str], str]
) -> Tile | None:
    """The tile of an allocation whose instance is not there yet; None when it is on another GPU."""
    try:
        name = decode(device, [names.WHOLE_GPU, *(profile.name for profile in model(model_name).profiles)])
        if name.gpu != short_uuid(str(gpu["uuid"])):
            return None
        if name.profile == names.WHOLE_GPU:
            width = int(gpu["memorySlices"])
        else:
            width = model(model_name).profile(name.profile).memory_slices
    except (BadDeviceName, UnknownModel, UnknownProfile, ValueError):
        return None
    space, claim_name = _claim_key(claim)
    job = owners.get((space, claim_name), "")
    return Tile(name.start, width, name.profile, "Allocated", _holder(job, space, claim_name), job)


def _holder(job: str, namespace: str, claim: str) -> str:
    if job:
        return job.partition("/")[2]
    return f"{namespace}/{claim}" if claim else ""


def _job(job: Object, owners: Mapping[tuple[str, str], str], claims: list[Object]) -> Job:
    metadata = job["metadata"]
    status = job.get("status") or {}
    conditions = status.get("conditions") or []
    progress = status.get("progress") or {}
    placement = status.get("placement") or {}
    result = status.get("result") or {}
    key = f"{metadata.get('namespace', '')}/{metadata['name']}"
    finished: Literal["", "Complete", "Failed"] = ""
    for type_ in ("Complete", "Failed"):
        condition = find_condition(conditions, type_)
        if condition is not None and condition.get("status") == "True":
            finished = "Complete" if type_ == "Complete" else "Failed"
    said = find_condition(conditions, finished or "Ready") or {}
    message = str(said.get("message") or "")
    if not finished and not placement:
        waiting = [_reason(claim) for claim in claims if owners.get(_claim_key(claim)) == key]
        message = next(filter(None, waiting), message)
    return Job(
        namespace=str(metadata.get("namespace", "")),
        name=str(metadata["name"]),
        profile=str(((job.get("spec") or {}).get("resources") or {}).get("slice", {}).get("profile", "")),
        reason=finished or str(said.get("reason") or "Pending"),
        message=message,
        finished=finished,
        step=progress.get("step"),
        steps=progress.get("steps"),
        loss=progress.get("loss"),
        eta_seconds=progress.get("etaSeconds"),
        where=_where(placement),
        metrics=dict(result.get("metrics") or {}),
    )


def _where(placement: Object) -> str:
    if not placement.get("node"):
        return ""
    start = placement.get("start")
    return f"{placement['node']}" + (f" @{start}" if start is not None else "")
