"""What surrounds a training job: its Job, pods, claims and progress, picked out of the caches as one value.

`observe` answers the questions that the status is made from: which pod is the current one, which slice its
claim holds, what the scheduler says while it holds none, how the last pod ended. It is pure, so the status
needs no other source.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tessera.api import names
from tessera.api.heterogeneous_training_job import CheckCounts, PlacementStatus, Progress, Result
from tessera.api.meta import COUNT_LIMIT
from tessera.api.reasons import Reason
from tessera.controllers.gpu_view import results_of
from tessera.kube.conditions import find_condition

Object = Mapping[str, Any]

METRICS_LIMIT = 64
"""Metrics of a result that the status keeps, as the schema allows."""
METRIC_NAME_LIMIT = 128
"""Characters of a metric's name; what is longer is no name and is left out."""


@dataclass(frozen=True, kw_only=True)
class TrainingView:
    """What the caches know about one training job."""

    job: Object | None = None
    template: Object | None = None
    pods: Sequence[Object] = ()
    claims: Sequence[Object] = ()
    devices: Mapping[tuple[str, str], Object] = field(default_factory=dict)
    """(pool, device name) -> the device of a ResourceSlice, for the devices that these claims hold."""
    prepare_failures: Mapping[str, str] = field(default_factory=dict)
    """Claim UID -> why its node's agent could not cut the slice, for those that it tried without success."""
    node_trouble: tuple[Reason, str] | None = None
    """What keeps a node from offering its GPUs, for a job that finds none in the whole cluster."""
    progress: Progress | None = None
    """What the worker said last, when it could be asked."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a worker ended."""

    exit_code: int
    runtime_reason: str
    """The container runtime's word, such as OOMKilled."""
    finished_at: str | None
    outcome: str | None
    message: str
    progress: Progress | None
    result: Result


@dataclass(frozen=True, kw_only=True)
class Finish:
    """How the Job ended."""

    succeeded: bool
    job_reason: str
    message: str
    at: str


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why the scheduler has not placed the claim."""

    reason: Reason
    message: str


@dataclass(frozen=True, kw_only=True)
class Situation:
    """One training job as it is now."""

    pod: Object | None
    """The pod that counts: the newest one that has not ended, else None."""
    placement: PlacementStatus | None
    refusal: Refusal | None
    ending: Ending | None
    """The newest end of a pod of this job."""
    finish: Finish | None
    active_pods: int
    prepare_failure: str | None = None
    """Why the agent could not cut the slice that the claim holds."""


def observe(view: TrainingView) -> Situation:
    """The situation that the caches show."""
    living = [pod for pod in view.pods if _lives(pod)]
    pod = max(living, key=_created, default=None)
    newest = pod if pod is not None else max(view.pods, key=_created, default=None)
    claim = _claim_of(newest, view.claims) if newest is not None else None
    status = (view.job or {}).get("status", {})
    return Situation(
        pod=pod,
        placement=_placement(claim, view.devices) if claim is not None else None,
        refusal=_refusal(claim, view.node_trouble) if claim is not None else None,
        ending=_last_ending(view.pods),
        finish=_finish(status),
        active_pods=len(living),
        prepare_failure=view.prepare_failures.get(claim["metadata"]["uid"]) if claim is not None else None,
    )


def pods_since(view: TrainingView, known: str | None) -> Sequence[Object]:
    """The pods that came after the one with UID `known`, oldest first; all pods of this run if none is known.

    A run begins when the Job starts or is resumed (it then has a new start time): what failed before a pause
    is no part of it. Pods that ended before anybody looked count like the others.
    """
    started = (view.job or {}).get("status", {}).get("startTime")
    run = [pod for pod in view.pods if _lives(pod) or (started and _created(pod)[0] >= started)]
    run.sort(key=_created)
    uids = [pod["metadata"]["uid"] for pod in run]
    if known is None:
        return run
    if known in uids:
        return run[uids.index(known) + 1 :]
    # Evicted pods are deleted, so nothing says which of the ended ones came later.
    return [pod for pod in run if _lives(pod)]


def container_status(pod: Object) -> Object:
    """The worker container's status; empty before the kubelet has reported it."""
    for status in pod.get("status", {}).get("containerStatuses") or ():
        if status.get("name") == names.WORKER_CONTAINER:
            found: Object = status
            return found
    return {}


def _lives(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")


def _created(pod: Object) -> tuple[str, str]:
    metadata = pod["metadata"]
    return metadata.get("creationTimestamp") or "", metadata["name"]


def _claim_of(pod: Object, claims: Iterable[Object]) -> Object | None:
    uid = pod["metadata"].get("uid")
    for claim in claims:
        owners = claim["metadata"].get("ownerReferences") or ()
        if any(owner.get("uid") == uid for owner in owners):
            return claim
    return None


def _placement(claim: Object, devices: Mapping[tuple[str, str], Object]) -> PlacementStatus | None:
    ours = next((result for result in results_of(claim) if result.get("driver") == names.DRIVER), None)
    if ours is None:
        return None
    attributes = devices.get((ours["pool"], ours["device"]), {}).get("attributes") or {}
    return PlacementStatus(
        node=ours["pool"],
        gpu=attributes.get(names.ATTRIBUTE_GPU_UUID, {}).get("string"),
        profile=attributes.get(names.ATTRIBUTE_PROFILE, {}).get("string"),
        start=attributes.get(names.ATTRIBUTE_START, {}).get("int"),
        device=ours["device"],
        claim=claim["metadata"]["name"],
    )


def lack_gpus(claims: Iterable[Object]) -> bool:
    """Whether the scheduler says of one of these claims that no GPU is published at all."""
    said = (_said(claim) for claim in claims)
    return any(refusal is not None and refusal.reason is Reason.NO_GPUS for refusal in said)


def _refusal(claim: Object, trouble: tuple[Reason, str] | None) -> Refusal | None:
    """What the scheduler says; where it sees no GPU and an agent says why, what the agent says."""
    said = _said(claim)
    if said is None or said.reason is not Reason.NO_GPUS or trouble is None:
        return said
    reason, message = trouble
    return Refusal(reason=reason, message=f"no GPU is published in this cluster; {message}")


def _said(claim: Object) -> Refusal | None:
    text = (claim["metadata"].get("annotations") or {}).get(names.PLACEMENT_MESSAGE_ANNOTATION)
    if text is None or claim.get("status", {}).get("allocation"):
        return None
    said = _json_object(text)
    if said is None:
        return Refusal(reason=Reason.UNPLACEABLE, message=text)
    word = str(said.get("reason") or "")
    reason = Reason(word) if word in set(Reason) else Reason.UNPLACEABLE
    return Refusal(reason=reason, message=str(said.get("message") or reason))


def _last_ending(pods: Iterable[Object]) -> Ending | None:
    endings = [ending for pod in pods if (ending := _ending(pod)) is not None]
    return max(endings, key=lambda ending: ending.finished_at or "", default=None)


def _ending(pod: Object) -> Ending | None:
    terminated = (container_status(pod).get("state") or {}).get("terminated")
    if not terminated:
        return None
    text = str(terminated.get("message") or "").strip()
    said = _json_object(text)
    message = _text(said.get("message") or "") if said is not None else text
    return Ending(
        exit_code=int(terminated.get("exitCode") or 0),
        runtime_reason=str(terminated.get("reason") or ""),
        finished_at=terminated.get("finishedAt"),
        outcome=_text(said["outcome"]) if said is not None and said.get("outcome") else None,
        message=message,
        progress=_last_progress(said) if said is not None else None,
        result=_result(said or {}, message=message, finished_at=terminated.get("finishedAt")),
    )


def _last_progress(said: Mapping[str, Any]) -> Progress | None:
    step, steps = _natural(said.get("step")), _natural(said.get("steps"))
    if step is None and steps is None:
        return None
    return Progress(step=step, steps=steps)


def _result(said: Mapping[str, Any], *, message: str, finished_at: str | None) -> Result:
    checks = said.get("checks")
    counts = None
    if isinstance(checks, Mapping):
        counts = CheckCounts(
            passed=_natural(checks.get("passed")) or 0, failed=_natural(checks.get("failed")) or 0
        )
    measured = said.get("metrics")
    metrics = {
        _text(name): number
        for name, value in sorted((measured if isinstance(measured, Mapping) else {}).items())
        if 0 < len(name) <= METRIC_NAME_LIMIT and (number := _finite(value)) is not None
    }
    path = said.get("resultPath")
    return Result(
        checks=counts,
        metrics=dict(list(metrics.items())[:METRICS_LIMIT]),
        result_path=_text(path)[:1024] if path else None,
        message=message[:4096] or None,
        finished_at=finished_at,
    )


def _natural(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= COUNT_LIMIT else None


def _finite(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str:
    """As a string that can be stored: JSON may spell half a character (a lone surrogate), UTF-8 cannot."""
    return str(value).encode("utf-8", "replace").decode()


def _finish(status: Object) -> Finish | None:
    for kind, succeeded in (("Complete", True), ("Failed", False)):
        condition = find_condition(status.get("conditions"), kind)
        if condition is not None and condition.get("status") == "True":
            return Finish(
                succeeded=succeeded,
                job_reason=str(condition.get("reason") or ""),
                message=str(condition.get("message") or ""),
                at=str(status.get("completionTime") or condition.get("lastTransitionTime")),
            )
    return None


def _json_object(text: str) -> Mapping[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parse_time(text: str) -> datetime:
    """A Kubernetes timestamp."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
