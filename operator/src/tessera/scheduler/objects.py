"""Pods, ResourceClaims and Nodes as the scheduler needs them: small frozen values, read from the API's JSON.

Reading is separate from deciding, so that the decisions never see a missing key, and so that an object is
read once per resourceVersion however often a decision looks at it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any

from tessera.api import names
from tessera.scheduler.inventory import Taint, read_taints
from tessera.scheduler.quantity import parse_quantity

Key = tuple[str, str]
"""(namespace, name)."""

Resources = Mapping[str, Fraction]


@dataclass(frozen=True, slots=True)
class PodClaim:
    """One entry of a pod's `spec.resourceClaims`. `claim` is None while kube-controller-manager has not made
    it.
    """

    name: str
    claim: str | None
    from_template: bool


@dataclass(frozen=True, slots=True)
class Gang:
    """A pod's gang; `size` and `timeout_seconds` are None when the annotation is not a positive number."""

    name: str
    size: int | None
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Pod:
    """What placing a pod depends on. Times are seconds since the epoch."""

    key: Key
    uid: str
    resource_version: str
    created: float
    priority: int
    node: str
    deleting: bool
    finished: bool
    gates: tuple[str, ...]
    claims: tuple[PodClaim, ...]
    requests: Resources
    node_selector: Mapping[str, str]
    affinity_terms: tuple[Mapping[str, Any], ...] | None
    tolerations: tuple[Mapping[str, Any], ...]
    unschedulable_since: float | None
    gang: Gang | None
    job_uid: str
    completion_index: str
    raw: Mapping[str, Any] = field(compare=False, repr=False)

    @property
    def gated(self) -> bool:
        """Whether our gate holds the pod."""
        return names.PLACEMENT_GATE in self.gates

    @property
    def longest_run_seconds(self) -> float | None:
        """So long after its start the kubelet ends it (`activeDeadlineSeconds` of its own, not of its Job);
        None: it may run on.
        """
        said = self.raw["spec"].get("activeDeadlineSeconds")
        return None if said is None else float(said)

    @property
    def held_by_others(self) -> bool:
        """Whether somebody else's gate holds the pod too: a slice for it would lie idle."""
        return any(gate != names.PLACEMENT_GATE for gate in self.gates)


@dataclass(frozen=True, slots=True)
class Allocated:
    """An allocation: its devices of our driver, and the nodes that it is bound to (None: any)."""

    devices: tuple[tuple[str, str], ...]
    node_terms: tuple[Mapping[str, Any], ...] | None
    since: float


@dataclass(frozen=True, slots=True)
class Claim:
    """What placing a claim depends on. `reserved_for` holds the UIDs of the consumers."""

    key: Key
    uid: str
    resource_version: str
    deleting: bool
    has_finalizer: bool
    ours: bool
    owner_uid: str
    pod_claim_name: str
    allocated: Allocated | None
    reserved_for: tuple[str, ...]
    spec: Mapping[str, Any]
    message: str
    move: str
    """What the scheduler wrote on a placeholder of its own (`move_records`), or ""."""
    room: str
    """What the scheduler wrote about the place that is opened for the claim, or ""."""
    raw: Mapping[str, Any] = field(compare=False, repr=False)

    @property
    def holds_ours(self) -> bool:
        """Whether the claim holds devices of our driver."""
        return self.allocated is not None and bool(self.allocated.devices)


@dataclass(frozen=True, slots=True)
class Node:
    """What placing on a node depends on."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    unschedulable: bool
    ready: bool
    allocatable: Resources


def read_pod(obj: Mapping[str, Any]) -> Pod:
    """A Pod object as the scheduler sees it."""
    metadata, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
    annotations = metadata.get("annotations") or {}
    labels = metadata.get("labels") or {}
    owner = _controller(metadata)
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    return Pod(
        key=(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata.get("resourceVersion", ""),
        created=read_time(metadata.get("creationTimestamp")),
        priority=spec.get("priority") or 0,
        node=spec.get("nodeName") or "",
        deleting="deletionTimestamp" in metadata,
        finished=status.get("phase") in ("Succeeded", "Failed"),
        gates=tuple(gate["name"] for gate in spec.get("schedulingGates") or ()),
        claims=_pod_claims(spec, status),
        requests=pod_requests(spec),
        node_selector=spec.get("nodeSelector") or {},
        affinity_terms=None if required is None else tuple(required.get("nodeSelectorTerms") or ()),
        tolerations=tuple(spec.get("tolerations") or ()),
        unschedulable_since=_unschedulable_since(status),
        gang=_gang(annotations),
        job_uid=owner["uid"] if owner and owner.get("kind") == "Job" else "",
        completion_index=labels.get("batch.kubernetes.io/job-completion-index", ""),
        raw=obj,
    )


def read_claim(obj: Mapping[str, Any], classes: Collection[str] = (names.DEVICE_CLASS,)) -> Claim:
    """A ResourceClaim object as the scheduler sees it; ours when a request is of these classes."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    annotations = metadata.get("annotations") or {}
    owner = _controller(metadata)
    return Claim(
        key=(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata.get("resourceVersion", ""),
        deleting="deletionTimestamp" in metadata,
        has_finalizer=names.CLAIM_FINALIZER in (metadata.get("finalizers") or ()),
        ours=any(name in classes for name in _classes(obj["spec"])),
        owner_uid=owner["uid"] if owner and owner.get("kind") == "Pod" else "",
        pod_claim_name=annotations.get(names.POD_CLAIM_NAME_ANNOTATION, ""),
        allocated=_allocated(status.get("allocation")),
        reserved_for=tuple(consumer["uid"] for consumer in status.get("reservedFor") or ()),
        spec=obj["spec"],
        message=annotations.get(names.PLACEMENT_MESSAGE_ANNOTATION, ""),
        move=annotations.get(names.MOVE_ANNOTATION, ""),
        room=annotations.get(names.ROOM_ANNOTATION, ""),
        raw=obj,
    )


def read_node(obj: Mapping[str, Any]) -> Node:
    """A Node object as the scheduler sees it."""
    metadata, spec, status = obj["metadata"], obj.get("spec") or {}, obj.get("status") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or ()}
    return Node(
        name=metadata["name"],
        labels=metadata.get("labels") or {},
        taints=read_taints(spec.get("taints")),
        unschedulable=bool(spec.get("unschedulable")),
        ready=conditions.get("Ready") == "True",
        allocatable={name: parse_quantity(str(q)) for name, q in (status.get("allocatable") or {}).items()},
    )


def pod_requests(spec: Mapping[str, Any]) -> Resources:
    """What a pod asks of its node, by the rule of kube-scheduler.

    Containers run together; an init container runs before them, beside the sidecars that started earlier; the
    pod's overhead comes on top. Requests at pod level replace the sum where they are given. Every pod takes
    one of the node's `pods`.
    """
    together: dict[str, Fraction] = {}
    for container in spec.get("containers") or ():
        _add(together, container)
    sidecars: dict[str, Fraction] = {}
    peak: dict[str, Fraction] = {}
    for container in spec.get("initContainers") or ():
        moment = dict(sidecars)
        _add(moment, container)
        if container.get("restartPolicy") == "Always":
            _add(together, container)
            _add(sidecars, container)
        for name, amount in moment.items():
            peak[name] = max(peak.get(name, Fraction(0)), amount)
    total = {
        name: max(together.get(name, Fraction(0)), peak.get(name, Fraction(0))) for name in (*together, *peak)
    }
    for name, amount in ((spec.get("resources") or {}).get("requests") or {}).items():
        total[name] = parse_quantity(str(amount))
    for name, amount in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, Fraction(0)) + parse_quantity(str(amount))
    total["pods"] = Fraction(1)
    return total


def read_time(text: str | None) -> float:
    """An API timestamp in seconds since the epoch; 0 when there is none."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0


def _add(total: dict[str, Fraction], container: Mapping[str, Any]) -> None:
    for name, amount in ((container.get("resources") or {}).get("requests") or {}).items():
        total[name] = total.get(name, Fraction(0)) + parse_quantity(str(amount))


def _controller(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")), None)


def _pod_claims(spec: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[PodClaim, ...]:
    made = {s["name"]: s.get("resourceClaimName") for s in status.get("resourceClaimStatuses") or ()}
    return tuple(
        PodClaim(
            name=entry["name"],
            claim=entry.get("resourceClaimName") or made.get(entry["name"]),
            from_template=bool(entry.get("resourceClaimTemplateName")),
        )
        for entry in spec.get("resourceClaims") or ()
    )


def _unschedulable_since(status: Mapping[str, Any]) -> float | None:
    for condition in status.get("conditions") or ():
        # While the reason is still SchedulingGated, kube-scheduler has not judged the ungated pod yet.
        if (
            condition["type"] == "PodScheduled"
            and condition["status"] == "False"
            and condition.get("reason") != "SchedulingGated"
        ):
            return read_time(condition.get("lastTransitionTime"))
    return None


def _gang(annotations: Mapping[str, str]) -> Gang | None:
    name = annotations.get(names.GANG_ANNOTATION)
    if not name:
        return None
    return Gang(
        name,
        positive(annotations.get(names.GANG_SIZE_ANNOTATION, "")),
        positive(annotations.get(names.GANG_TIMEOUT_ANNOTATION, "")),
    )


_MOST_DIGITS = 9
"""Of a number in an annotation. Users write these, and int() raises for numbers of thousands of digits."""


def positive(text: str) -> int | None:
    """The whole number above 0 that an annotation says, or None."""
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) or None if is_number else None


def _classes(spec: Mapping[str, Any]) -> list[str]:
    """The class of every request and of every alternative."""
    requests = (spec.get("devices") or {}).get("requests") or ()
    parts = [
        p for r in requests for p in ([r["exactly"]] if r.get("exactly") else r.get("firstAvailable") or ())
    ]
    return [part.get("deviceClassName", "") for part in parts]


def _allocated(allocation: Mapping[str, Any] | None) -> Allocated | None:
    if allocation is None:
        return None
    results = (allocation.get("devices") or {}).get("results") or ()
    selector = allocation.get("nodeSelector")
    return Allocated(
        devices=tuple((r["pool"], r["device"]) for r in results if r["driver"] == names.DRIVER),
        node_terms=None if selector is None else tuple(selector.get("nodeSelectorTerms") or ()),
        since=read_time(allocation.get("allocationTimestamp")),
    )
