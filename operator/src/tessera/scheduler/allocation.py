"""Decisions as the bodies of API requests: finalizer, allocation, ungating, taking back. Pure.

The field names are those of `resource.k8s.io/v1`. Three facts shape these bodies: an allocation cannot be
changed once it is set, so it goes out in one patch with everything in it; `allocationTimestamp` must be ours,
or kube-scheduler tries to add its own and fails; and without the finalizer nobody frees the allocation when
the pod has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tessera.api import names
from tessera.scheduler.classes import NO_OBJECTS, Classes
from tessera.scheduler.objects import Claim, Pod

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """One device for one request; `request` is "request" or "request/subrequest"."""

    request: str
    pool: str
    device: str
    tolerations: tuple[Mapping[str, Any], ...] = ()
    profile: str = ""


@dataclass(frozen=True, slots=True)
class ClaimPlacement:
    """The decision for one claim: its devices, all on one node."""

    claim: Claim
    node: str
    results: tuple[Result, ...]
    classes: Classes = field(default_factory=lambda: NO_OBJECTS, repr=False)


def needs_metadata(claim: Claim) -> bool:
    """Whether the claim must get its finalizer, or lose an old message, before it is allocated."""
    return not claim.has_finalizer or bool(claim.message)


def metadata_patch(claim: Claim) -> Body:
    """Merge patch: the finalizer is there, the message of an earlier refusal is not."""
    finalizers = list(claim.raw["metadata"].get("finalizers") or ())
    if names.CLAIM_FINALIZER not in finalizers:
        finalizers.append(names.CLAIM_FINALIZER)
    metadata: Body = {**_precondition(claim), "finalizers": finalizers}
    if claim.message:
        metadata["annotations"] = {names.PLACEMENT_MESSAGE_ANNOTATION: None}
    return {"metadata": metadata}


def message_patch(claim: Claim, message: str) -> Body:
    """Merge patch: why the claim waits. Without a precondition on the version: it is news, not state."""
    return {"metadata": {"uid": claim.uid, "annotations": {names.PLACEMENT_MESSAGE_ANNOTATION: message}}}


def consumers(claim: Claim, pods: Sequence[Pod]) -> list[Pod]:
    """Those of the pods that use the claim, in their order."""
    return [
        pod for pod in pods if pod.key[0] == claim.key[0] and any(e.claim == claim.key[1] for e in pod.claims)
    ]


def allocation_patch(
    placement: ClaimPlacement, *, pods: Sequence[Pod], now: float, resource_version: str
) -> Body:
    """Merge patch for `status`: allocation and the reservation for these pods at once."""
    claim = placement.claim
    devices: Body = {"results": [_result(result) for result in placement.results]}
    chosen = [result.request for result in placement.results]
    config = [*class_config(claim.spec, chosen, placement.classes), *allocation_config(claim.spec, chosen)]
    if config:
        devices["config"] = config
    return {
        "metadata": {"uid": claim.uid, "resourceVersion": resource_version},
        "status": {
            "allocation": {
                "allocationTimestamp": timestamp(now),
                "devices": devices,
                "nodeSelector": {
                    "nodeSelectorTerms": [
                        {
                            "matchFields": [
                                {"key": "metadata.name", "operator": "In", "values": [placement.node]}
                            ]
                        }
                    ]
                },
            },
            "reservedFor": [_consumer(pod) for pod in pods],
        },
    }


def allocation_config(spec: Mapping[str, Any], chosen: Sequence[str]) -> list[Body]:
    """The claim's opaque configuration for our driver, as kube-scheduler would copy it: what applies to a
    chosen request.
    """
    names_of_chosen = {name for request in chosen for name in (request, request.partition("/")[0])}
    config = []
    for entry in (spec.get("devices") or {}).get("config") or ():
        opaque = entry.get("opaque")
        requests = entry.get("requests") or []
        applies = not requests or any(request in names_of_chosen for request in requests)
        if opaque and opaque.get("driver") == names.DRIVER and applies:
            config.append({"source": "FromClaim", "requests": list(requests), "opaque": opaque})
    return config


def class_config(spec: Mapping[str, Any], chosen: Sequence[str], classes: Classes) -> list[Body]:
    """The configuration of the classes of the chosen requests: each class once, with the requests that name
    it, as kube-scheduler of 1.34 and later writes it.
    """
    requests: dict[str, list[str]] = {}
    for name in dict.fromkeys(chosen):
        requests.setdefault(_class_of(spec, name), []).append(name)
    return [
        {"source": "FromClass", "requests": named, "opaque": opaque}
        for class_name, named in requests.items()
        if class_name in classes
        for opaque in classes[class_name].config
    ]


def _class_of(spec: Mapping[str, Any], chosen: str) -> str:
    name, _, alternative = chosen.partition("/")
    for request in spec["devices"]["requests"]:
        if request["name"] == name:
            parts = request.get("firstAvailable") or [request.get("exactly") or {}]
            chosen_parts = [p for p in parts if not alternative or p["name"] == alternative]
            return str(chosen_parts[0].get("deviceClassName"))
    raise ValueError(f"the claim has no request {chosen}")


def share_patch(claim: Claim, pod: Pod) -> list[Body]:
    """JSON patch for `status`: one more pod uses the allocated claim. Refused when the allocation is another
    one by now.

    Written by us and not left to kube-scheduler, so that the claim is not freed between the end of its first
    pod and the binding of its second.
    """
    consumer = _consumer(pod)
    since = claim.raw["status"]["allocation"].get("allocationTimestamp")
    same = [
        {"op": "test", "path": "/metadata/uid", "value": claim.uid},
        {"op": "test", "path": "/status/allocation/allocationTimestamp", "value": since},
    ]
    if claim.reserved_for:
        # Others may join at the same moment, so the list is appended to and not replaced.
        return [*same, {"op": "add", "path": "/status/reservedFor/-", "value": consumer}]
    version = {"op": "test", "path": "/metadata/resourceVersion", "value": claim.resource_version}
    return [*same, version, {"op": "add", "path": "/status/reservedFor", "value": [consumer]}]


def take_back_patch(claim: Claim) -> Body:
    """Merge patch for `status`: the claim holds nothing. Refused by the API server when the claim changed
    since.
    """
    return {"metadata": _precondition(claim), "status": {"allocation": None, "reservedFor": None}}


def ungate_patch(pod: Pod) -> list[Body]:
    """JSON patch: remove our gate, only ours, and only while it stands where we saw it."""
    index = pod.gates.index(names.PLACEMENT_GATE)
    path = f"/spec/schedulingGates/{index}"
    return [
        {"op": "test", "path": "/metadata/uid", "value": pod.uid},
        {"op": "test", "path": f"{path}/name", "value": names.PLACEMENT_GATE},
        {"op": "remove", "path": path},
    ]


def timestamp(now: float) -> str:
    """RFC 3339 with whole seconds, as metav1.Time is stored."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _consumer(pod: Pod) -> Body:
    return {"resource": "pods", "name": pod.key[1], "uid": pod.uid}


def _precondition(claim: Claim) -> Body:
    return {"uid": claim.uid, "resourceVersion": claim.resource_version}


def _result(result: Result) -> Body:
    body: Body = {
        "request": result.request,
        "driver": names.DRIVER,
        "pool": result.pool,
        "device": result.device,
    }
    if result.tolerations:
        body["tolerations"] = [dict(t) for t in result.tolerations]
    return body
