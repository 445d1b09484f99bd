"""The bodies of the requests that make, keep and end a move: placeholder, room record, release. Pure.

A placeholder is a ResourceClaim that no pod uses. kube-controller-manager leaves an allocated claim without
consumers alone for as long as nobody deletes it, and a deleted one it frees by itself (allocation, then
finalizer; tried on Kubernetes 1.36.3), so that a release that was begun ends even when its writer is killed.
"""

from __future__ import annotations

from typing import Any

from tessera.api import names
from tessera.scheduler.actions import HoldTarget
from tessera.scheduler.allocation import Body, ClaimPlacement, Result, allocation_patch
from tessera.scheduler.move_records import RoomRecord, read_move, write_move, write_room
from tessera.scheduler.objects import Claim, read_claim


def placeholder(hold: HoldTarget, *, namespace: str) -> Body:
    """The claim that holds the target: exactly that profile, asked for as a user would."""
    expression = f'device.attributes["{names.DRIVER}"].{names.ATTRIBUTE_PROFILE} == "{hold.result.profile}"'
    exactly = {
        "deviceClassName": names.DEVICE_CLASS,
        "selectors": [{"cel": {"expression": expression}}],
    }
    if hold.result.tolerations:
        exactly["tolerations"] = [dict(toleration) for toleration in hold.result.tolerations]
    return {
        "metadata": {
            "name": hold.name,
            "namespace": namespace,
            "labels": {names.MANAGED_BY_LABEL: names.MANAGED_BY_VALUE},
            "annotations": {names.MOVE_ANNOTATION: write_move(hold.record)},
            "finalizers": [names.CLAIM_FINALIZER],
        },
        "spec": {"devices": {"requests": [{"name": names.CLAIM_REQUEST_NAME, "exactly": exactly}]}},
    }


def is_same_hold(obj: Body, hold: HoldTarget) -> bool:
    """Whether a claim of that name is the placeholder that we wanted to make: for the same victim, for the
    same waiting claim, and not on its way out.
    """
    metadata = obj["metadata"]
    found = read_move((metadata.get("annotations") or {}).get(names.MOVE_ANNOTATION, ""))
    wanted = hold.record
    return (
        found is not None
        and "deletionTimestamp" not in metadata
        and (found.identity, found.victim_pod, found.waiting_claim_uid)
        == (wanted.identity, wanted.victim_pod, wanted.waiting_claim_uid)
    )


def hold_patch(obj: Body, hold: HoldTarget, *, now: float) -> Body:
    """Merge patch for the placeholder's `status`: the target, reserved for nobody."""
    request = names.CLAIM_REQUEST_NAME
    result = Result(request, hold.result.pool, hold.result.device, hold.result.tolerations)
    placement = ClaimPlacement(read_claim(obj), hold.node, (result,))
    version = obj["metadata"]["resourceVersion"]
    return allocation_patch(placement, pods=(), now=now, resource_version=version)


def room_patch(claim: Claim, record: RoomRecord | None) -> Body:
    """Merge patch: the record of the room that is opened for the claim. Without a precondition on the
    version: it depends on nothing that others write there.
    """
    text = None if record is None else write_room(record)
    return {"metadata": {"uid": claim.uid, "annotations": {names.ROOM_ANNOTATION: text}}}


def release_patch(claim: Claim) -> Body:
    """Merge patch for the `status` of a deleted placeholder: it holds nothing. Whoever was faster, we or
    kube-controller-manager, the result is the same.
    """
    return {"metadata": {"uid": claim.uid}, "status": {"allocation": None}}


def let_go_patch(claim: Claim) -> Body:
    """Merge patch for a deleted placeholder: without our finalizer, so that it is gone at once."""
    finalizers: list[Any] = list(claim.raw["metadata"].get("finalizers") or ())
    kept = [finalizer for finalizer in finalizers if finalizer != names.CLAIM_FINALIZER]
    return {"metadata": {"uid": claim.uid, "finalizers": kept}}
