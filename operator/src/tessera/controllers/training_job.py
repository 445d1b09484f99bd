"""Reconcile a ``HeterogeneousTrainingJob``: its children, its conditions, its end.

The Job runs the worker and the scheduler finds the slice; this module says what should exist and tells the
user what is going on. It remembers nothing: everything follows from the object, its children and the worker's
last words, so the operator may stop at any moment and another goes on. Only the end is remembered, in the
status: a job that has ended is never started again, even when somebody deletes its Job.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from tessera.api.heterogeneous_training_job import (
    HeterogeneousTrainingJobSpec,
    HeterogeneousTrainingJobStatus,
    PlacementStatus,
    PodStatus,
    Progress,
    Result,
)
from tessera.api.reasons import Reason
from tessera.controllers.conditions import Verdict, judge, news_of
from tessera.controllers.plan import Child, FieldChange, News, Object, Plan, Terminal
from tessera.controllers.training_verdicts import (
    blocked_verdicts,
    end_of,
    failed_verdicts,
    finished_verdicts,
    live_verdicts,
    start_deadline,
)
from tessera.controllers.training_view import Situation, TrainingView, observe, parse_time, pods_since
from tessera.controllers.worker_pod import (
    WorkerSettings,
    argument_of,
    claim_template,
    parse_quantity,
    run_limits,
    training_job,
)
from tessera.kube.conditions import find_condition, is_true
from tessera.kube.resources import HETEROGENEOUS_TRAINING_JOBS, JOBS, RESOURCE_CLAIM_TEMPLATES

KIND = HETEROGENEOUS_TRAINING_JOBS.kind

DEVICE_SECONDS = 5.0
"""When to look again for the ResourceSlice of a device that the claim holds (the agent may be publishing
anew)."""

TOLD: Mapping[Reason, str] = {
    Reason.ADMITTED: "Normal",
    Reason.PLACED: "Normal",
    Reason.RUNNING: "Normal",
    Reason.SUSPENDED: "Normal",
    Reason.RESUMED: "Normal",
    Reason.COMPLETE: "Normal",
    Reason.UNPLACEABLE: "Warning",
    Reason.UNKNOWN_PROFILE: "Warning",
    Reason.ILLEGAL_PROFILE: "Warning",
    Reason.INVALID_REQUEST: "Warning",
    Reason.NO_GPUS: "Warning",
    Reason.DRIVER_MISSING: "Warning",
    Reason.NVML_ERROR: "Warning",
    Reason.MIG_DISABLED: "Warning",
    Reason.GPU_UNHEALTHY: "Warning",
    Reason.MANAGED_BY_OTHERS: "Warning",
    Reason.KUBELET_NOT_REGISTERED: "Warning",
    Reason.IMAGE_UNAVAILABLE: "Warning",
    Reason.OUTPUT_CLAIM_MISSING: "Warning",
    Reason.PREPARE_FAILED: "Warning",
    Reason.START_DELAYED: "Warning",
    Reason.NAME_TAKEN: "Warning",
    Reason.RECONCILE_ERROR: "Warning",
    Reason.INVALID_WORKLOAD: "Warning",
    Reason.CHECK_FAILED: "Warning",
    Reason.GPU_OUT_OF_MEMORY: "Warning",
    Reason.HOST_OUT_OF_MEMORY: "Warning",
    Reason.BACKOFF_LIMIT_EXCEEDED: "Warning",
    Reason.DEADLINE_EXCEEDED: "Warning",
    Reason.JOB_FAILED: "Warning",
}
"""Reasons that are worth an event when a condition takes them."""


def reconcile(obj: Object, view: TrainingView, *, settings: WorkerSettings, now: datetime) -> Plan:
    """What the training job wants now."""
    if obj["metadata"].get("deletionTimestamp"):
        return Plan()
    status = obj.get("status") or {}
    if _has_ended(status) and view.job is None:
        # The Job is gone (its own TTL, a user): the verdict stands, and nothing is made again.
        return _with_time_to_live(obj, status, Plan(), now=now)
    try:
        spec = HeterogeneousTrainingJobSpec.model_validate(obj["spec"])
        _check_values(spec)
    except (ValidationError, ValueError, TypeError) as error:
        return _refuse(obj, _spec_message(error), now=now)
    situation = observe(view)
    verdicts = (
        finished_verdicts(spec, situation)
        if situation.finish
        else live_verdicts(spec, situation, status=status, now=now)
    )
    wanted = _status(obj, spec, situation, view, verdicts, now=now)
    plan = Plan(
        requeue_seconds=_next_look(situation, now=now),
        children=_children(obj, spec, view, settings),
        changes=_changes(obj, spec, view, situation),
        status=wanted,
        news=(
            *news_of(status.get("conditions"), verdicts, told=TOLD),
            *_restart_news(status, wanted, situation),
        ),
    )
    return _with_time_to_live(obj, wanted, plan, now=now)


def _next_look(situation: Situation, *, now: datetime) -> float | None:
    """Seconds until something is due that no watch tells."""
    if situation.placement is not None and situation.placement.gpu is None:
        return DEVICE_SECONDS
    pod = situation.pod
    if pod is None or pod.get("status", {}).get("phase") != "Pending":
        return None
    deadline = start_deadline(pod)
    return (deadline - now).total_seconds() if deadline is not None and now < deadline else None


def blocked(obj: Object, error: Terminal, *, now: datetime) -> Plan:
    """The plan after a child could not be made: say why, and look again later."""
    verdicts = blocked_verdicts(error.reason, error.message)
    return _verdict_plan(obj, verdicts, now=now, requeue_seconds=15.0)


def _has_ended(status: Object) -> bool:
    return is_true(status.get("conditions"), "Complete") or is_true(status.get("conditions"), "Failed")


def _check_values(spec: HeterogeneousTrainingJobSpec) -> None:
    for key, value in spec.workload.parameters.items():
        try:
            argument_of(value)
        except TypeError as error:
            raise TypeError(f"spec.workload.parameters.{key}: {error}") from error
    parse_quantity(spec.resources.cpu)
    parse_quantity(spec.resources.host_memory)


def _spec_message(error: ValidationError | ValueError | TypeError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"spec.{where}: {first['msg']}; correct it in a new job"
    return f"{error}; correct it in a new job"


def _refuse(obj: Object, message: str, *, now: datetime) -> Plan:
    verdicts = failed_verdicts(Reason.INVALID_WORKLOAD, message, admitted=False)
    plan = _verdict_plan(obj, verdicts, now=now)
    return _with_time_to_live(obj, plan.status or {}, plan, now=now)


def _verdict_plan(
    obj: Object, verdicts: tuple[Verdict, ...], *, now: datetime, requeue_seconds: float | None = None
) -> Plan:
    status = obj.get("status") or {}
    generation = obj["metadata"].get("generation")
    wanted = {
        **status,
        "observedGeneration": generation,
        "conditions": judge(status.get("conditions"), verdicts, generation=generation, now=now),
    }
    return Plan(
        status=wanted,
        news=news_of(status.get("conditions"), verdicts, told=TOLD),
        requeue_seconds=requeue_seconds,
    )


def _children(
    obj: Object, spec: HeterogeneousTrainingJobSpec, view: TrainingView, settings: WorkerSettings
) -> tuple[Child, ...]:
    """What is missing. A child that exists is not applied again: its spec cannot change, and a new release of
    the operator, which may build it otherwise, must not disturb jobs that run."""
    missing: list[Child] = []
    if view.job is None:
        # The template first: the pod's claim is made from it.
        if view.template is None:
            missing.append(Child(resource=RESOURCE_CLAIM_TEMPLATES, body=claim_template(obj, spec)))
        missing.append(Child(resource=JOBS, body=training_job(obj, spec, settings)))
    elif view.template is None and observe(view).finish is None:
        missing.append(Child(resource=RESOURCE_CLAIM_TEMPLATES, body=claim_template(obj, spec)))
    return tuple(missing)


def _changes(
    obj: Object, spec: HeterogeneousTrainingJobSpec, view: TrainingView, situation: Situation
) -> tuple[FieldChange, ...]:
    if view.job is None or situation.finish is not None or view.job["metadata"].get("deletionTimestamp"):
        return ()
    present = view.job["spec"]
    wanted: dict[str, Any] = {"activeDeadlineSeconds": None, **run_limits(spec)}
    different = {
        field: value for field, value in wanted.items() if present.get(field, _default(field)) != value
    }
    if not different:
        return ()
    return (
        FieldChange(
            resource=JOBS,
            name=view.job["metadata"]["name"],
            namespace=obj["metadata"]["namespace"],
            body={"metadata": {"uid": view.job["metadata"]["uid"]}, "spec": different},
        ),
    )


def _default(field: str) -> Any:
    return False if field == "suspend" else None


def _status(
    obj: Object,
    spec: HeterogeneousTrainingJobSpec,
    situation: Situation,
    view: TrainingView,
    verdicts: tuple[Verdict, ...],
    *,
    now: datetime,
) -> dict[str, Any]:
    before = HeterogeneousTrainingJobStatus.model_validate(obj.get("status") or {})
    generation = obj["metadata"].get("generation")
    restarts, pod = _pods(before, situation, view, suspended=spec.suspend)
    wanted: dict[str, Any] = {
        "observedGeneration": generation,
        "conditions": judge(
            (obj.get("status") or {}).get("conditions"), verdicts, generation=generation, now=now
        ),
        "jobName": obj["metadata"]["name"],
        "restarts": restarts,
    }
    progress = _progress(view.progress, situation, before.progress)
    placement = _placement(situation, before, suspended=spec.suspend)
    fields = {
        "progress": progress,
        "placement": placement,
        "result": _result(situation),
        "pod": pod,
    }
    for field, value in fields.items():
        if value is not None:
            wanted[field] = value.to_json()
    return wanted


def _pods(
    before: HeterogeneousTrainingJobStatus, situation: Situation, view: TrainingView, *, suspended: bool
) -> tuple[int, PodStatus | None]:
    """Restarts so far, and the pod that the status names: every pod after the first of a run is a restart.

    The Job's own count is no use: it leaves out preempted pods, and evicted pods do not stay to be counted.
    """
    count = before.restarts or 0
    if suspended and situation.pod is None:
        # Forgotten, so that the pod after the pause is no restart.
        return count, None
    known = before.pod
    newer = pods_since(view, known.uid if known is not None else None)
    if not newer:
        return count, known
    metadata = newer[-1]["metadata"]
    named = PodStatus(name=metadata["name"], uid=metadata["uid"])
    return count + len(newer) - int(known is None), named


def _progress(polled: Progress | None, situation: Situation, before: Progress | None) -> Progress | None:
    ending = situation.ending
    if situation.finish is not None and ending is not None and ending.progress is not None:
        known = (polled or before or Progress()).model_copy(update={"eta_seconds": None})
        final = known.model_copy(update=ending.progress.model_dump(exclude_none=True))
        return final.model_copy(update={"eta_seconds": 0.0}) if situation.finish.succeeded else final
    return polled or before


def _placement(
    situation: Situation, status: HeterogeneousTrainingJobStatus, *, suspended: bool
) -> PlacementStatus | None:
    before = status.placement
    if situation.placement is not None:
        if (
            situation.placement.gpu is None
            and before is not None
            and before.device == situation.placement.device
        ):
            # The node's ResourceSlices are not there for a moment (the agent restarts): keep what was known.
            return before.model_copy(update={"claim": situation.placement.claim})
        return situation.placement
    # The claim of a pod that ends is freed before the Job knows the end: the slice is the one held last.
    replaced = (
        situation.pod is not None
        and status.pod is not None
        and situation.pod["metadata"]["uid"] != status.pod.uid
    )
    return None if suspended or replaced else before


def _result(situation: Situation) -> Result | None:
    return situation.ending.result if situation.finish is not None and situation.ending is not None else None


def _restart_news(status: Object, wanted: Mapping[str, Any], situation: Situation) -> tuple[News, ...]:
    if wanted["restarts"] <= int(status.get("restarts") or 0):
        return ()
    why = end_of(situation.ending) if situation.ending is not None else "its pod is gone"
    message = f"restart {wanted['restarts']}: {why}; the next pod continues from the last checkpoint"
    return (News(type="Normal", reason=Reason.RESTARTED, message=message),)


def _with_time_to_live(obj: Object, status: Object, plan: Plan, *, now: datetime) -> Plan:
    ttl = obj.get("spec", {}).get("ttlSecondsAfterFinished")
    if ttl is None or not _has_ended(status):
        return plan
    ended = find_condition(status.get("conditions"), "Complete")
    if ended is None or ended.get("status") != "True":
        ended = find_condition(status.get("conditions"), "Failed")
    assert ended is not None
    left = ttl - (now - parse_time(ended["lastTransitionTime"])).total_seconds()
    if left > 0:
        return Plan(
            children=plan.children,
            changes=plan.changes,
            status=plan.status,
            news=plan.news,
            requeue_seconds=left,
        )
    message = f"deleted {ttl} s after it finished, as spec.ttlSecondsAfterFinished says; its output stays"
    return Plan(
        status=plan.status, delete=True, news=(News(type="Normal", reason=Reason.EXPIRED, message=message),)
    )
