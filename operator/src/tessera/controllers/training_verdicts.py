"""The conditions of a training job, from its situation.

Seven conditions, all always present: ``Admitted`` (its children exist), ``Placed`` (its claim holds a slice),
``Running``, ``Suspended``, ``Complete``, ``Failed``, and first ``Ready``, which repeats the one that a user
asks about now. Each message names the object, the reason and what to do.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from tessera.api.heterogeneous_training_job import HeterogeneousTrainingJobSpec
from tessera.api.reasons import Reason
from tessera.controllers.conditions import Verdict
from tessera.controllers.plan import Object
from tessera.controllers.training_view import Ending, Finish, Situation, container_status, parse_time
from tessera.controllers.worker_pod import (
    EXIT_CHECK_FAILED,
    EXIT_COMPLETE,
    EXIT_GPU_OUT_OF_MEMORY,
    EXIT_INVALID,
    EXIT_PREEMPTED,
)
from tessera.kube.conditions import find_condition

_PULL_FAILURES = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
_FIRST = frozenset({Reason.OUTPUT_CLAIM_MISSING, Reason.IMAGE_UNAVAILABLE})
"""What only the user can put right. The scheduler takes the slice back meanwhile and offers it again, so that
what it says comes and goes; this stays."""
_START_LIMIT = timedelta(seconds=60)
"""How long a bound pod may be starting before its condition says that something is in the way."""


def live_verdicts(
    spec: HeterogeneousTrainingJobSpec, situation: Situation, *, status: Object, now: datetime
) -> tuple[Verdict, ...]:
    """Conditions of a job that has not ended."""
    placed = _placed(spec, situation)
    running = _running(situation, now=now)
    suspended = _suspended(spec, situation, status)
    if spec.suspend:
        ready = Verdict("Ready", "False", suspended.reason, suspended.message)
    elif running.reason in _FIRST:
        ready = Verdict("Ready", "False", running.reason, running.message)
    elif running.status == "True":
        ready = Verdict("Ready", "True", running.reason, running.message)
    elif placed.status != "True":
        ready = Verdict("Ready", "False", placed.reason, placed.message)
    else:
        ready = Verdict("Ready", "False", running.reason, running.message)
    return (
        ready,
        _admitted(),
        placed,
        running,
        suspended,
        Verdict("Complete", "False", Reason.NOT_FINISHED, "the worker has not finished"),
        Verdict("Failed", "False", Reason.NOT_FINISHED, "the worker has not failed for good"),
    )


def finished_verdicts(spec: HeterogeneousTrainingJobSpec, situation: Situation) -> tuple[Verdict, ...]:
    """Conditions of a job that has ended."""
    finish = situation.finish
    assert finish is not None
    if not finish.succeeded:
        reason, message = _failure(spec, finish, situation.ending)
        return failed_verdicts(reason, message, admitted=True)
    message = "the worker finished"
    result = situation.ending.result if situation.ending is not None else None
    if result is not None and result.checks is not None:
        message += f" and {result.checks.passed} of {result.checks.passed + result.checks.failed} checks held"
    if result is not None and result.result_path:
        message += f"; results are in {result.result_path}"
    return (
        Verdict("Ready", "True", Reason.COMPLETE, message),
        _admitted(),
        Verdict("Placed", "False", Reason.COMPLETE, "the slice was given back"),
        Verdict("Running", "False", Reason.COMPLETE, "the worker finished"),
        Verdict("Suspended", "False", Reason.COMPLETE, "the worker finished"),
        Verdict("Complete", "True", Reason.COMPLETE, message),
        Verdict("Failed", "False", Reason.COMPLETE, "the worker finished"),
    )


def failed_verdicts(reason: Reason, message: str, *, admitted: bool) -> tuple[Verdict, ...]:
    """Conditions of a job that failed for good; `admitted` says whether it ever had children."""
    return (
        Verdict("Ready", "False", reason, message),
        _admitted() if admitted else Verdict("Admitted", "False", reason, message),
        Verdict("Placed", "False", reason, "the job failed; it holds no slice"),
        Verdict("Running", "False", reason, "the job failed"),
        Verdict("Suspended", "False", reason, "the job failed"),
        Verdict("Complete", "False", reason, "the job failed"),
        Verdict("Failed", "True", reason, message),
    )


def blocked_verdicts(reason: Reason, message: str) -> tuple[Verdict, ...]:
    """Conditions of a job whose children cannot be made."""
    return (
        Verdict("Ready", "False", reason, message),
        Verdict("Admitted", "False", reason, message),
        Verdict("Placed", "False", Reason.NOT_STARTED, "the job has no pod"),
        Verdict("Running", "False", Reason.NOT_STARTED, "the job has no pod"),
        Verdict("Suspended", "False", Reason.NOT_SUSPENDED, "spec.suspend is not set"),
        Verdict("Complete", "False", Reason.NOT_FINISHED, "the worker has not finished"),
        Verdict("Failed", "False", Reason.NOT_FINISHED, "the worker has not failed for good"),
    )


def end_of(ending: Ending) -> str:
    """How a pod ended, in a few words."""
    if ending.runtime_reason == "OOMKilled":
        return "the worker used more host memory than it may"
    words = {
        EXIT_COMPLETE: "the worker finished",
        EXIT_INVALID: "the worker refused its parameters",
        EXIT_CHECK_FAILED: "a check of the workload failed",
        EXIT_GPU_OUT_OF_MEMORY: "the slice had too little memory",
        EXIT_PREEMPTED: "the worker was stopped and saved its checkpoint",
    }.get(ending.exit_code, f"the worker ended with exit code {ending.exit_code}")
    detail = ending.message.strip()
    if not detail or ending.exit_code in (EXIT_COMPLETE, EXIT_PREEMPTED):
        return words
    return f"{words}: {detail}"


def _admitted() -> Verdict:
    return Verdict(
        "Admitted", "True", Reason.ADMITTED, "Job and ResourceClaimTemplate of the same name exist"
    )


def _placed(spec: HeterogeneousTrainingJobSpec, situation: Situation) -> Verdict:
    placement = situation.placement
    if _worker_has_ended(situation) and not spec.suspend:
        return Verdict("Placed", "False", Reason.FINISHING, "the worker has ended; its slice is given back")
    if placement is not None:
        where = f"{placement.device} on node {placement.node}"
        return Verdict("Placed", "True", Reason.PLACED, f"the job holds {where}")
    if situation.refusal is not None:
        return Verdict("Placed", "False", situation.refusal.reason, situation.refusal.message)
    profile = spec.resources.slice.profile
    if spec.suspend:
        return Verdict("Placed", "False", Reason.SUSPENDED, f"suspended: no {profile} slice is asked for")
    return Verdict(
        "Placed",
        "False",
        Reason.AWAITING_PLACEMENT,
        f"waiting for the scheduler to find a {profile} slice; if this lasts, look at Deployment "
        "tessera-scheduler",
    )


def _worker_has_ended(situation: Situation) -> bool:
    """Whether the last pod has ended and the Job has not yet drawn its conclusion (an end, or a new pod)."""
    pod = situation.pod
    if pod is None:
        return situation.ending is not None and situation.finish is None
    return not pod["metadata"].get("deletionTimestamp") and "terminated" in (
        container_status(pod).get("state") or {}
    )


def _running(situation: Situation, *, now: datetime) -> Verdict:
    pod = situation.pod
    if _worker_has_ended(situation):
        how = end_of(situation.ending) if situation.ending is not None else "the worker has ended"
        return Verdict("Running", "False", Reason.FINISHING, f"{how}; the Job decides what follows")
    if pod is None:
        return Verdict("Running", "False", Reason.NOT_STARTED, "no pod of the job runs")
    name = pod["metadata"]["name"]
    state = container_status(pod).get("state") or {}
    if "running" in state and not pod["metadata"].get("deletionTimestamp"):
        node = pod.get("spec", {}).get("nodeName", "?")
        return Verdict("Running", "True", Reason.RUNNING, f"pod {name} trains on node {node}")
    if "running" in state:
        return Verdict("Running", "False", Reason.SUSPENDING, f"pod {name} saves its checkpoint and stops")
    waiting = state.get("waiting") or {}
    word = str(waiting.get("reason") or "")
    if word in _PULL_FAILURES:
        return Verdict(
            "Running",
            "False",
            Reason.IMAGE_UNAVAILABLE,
            f"pod {name} cannot get its image ({word}: {waiting.get('message') or 'no detail'}); correct "
            "spec.image in a new job, or make the image available to the node",
        )
    scheduled = find_condition(pod.get("status", {}).get("conditions"), "PodScheduled")
    trouble = str((scheduled or {}).get("message") or "")
    if scheduled is not None and scheduled.get("status") == "False":
        if "persistentvolumeclaim" in trouble and "not found" in trouble:
            return Verdict(
                "Running",
                "False",
                Reason.OUTPUT_CLAIM_MISSING,
                f"pod {name} waits for its output: {trouble}; create the claim that spec.output names",
            )
        if scheduled.get("reason") != "SchedulingGated":
            return Verdict(
                "Running", "False", Reason.STARTING, f"pod {name} is not bound to a node yet: {trouble}"
            )
        return Verdict("Running", "False", Reason.NOT_STARTED, f"pod {name} waits for its slice")
    bound = pod.get("spec", {}).get("nodeName")
    if not bound:
        return Verdict("Running", "False", Reason.NOT_STARTED, f"pod {name} waits for a node")
    return _starting(pod, situation.prepare_failure, now=now)


def _starting(pod: Object, prepare_failure: str | None, *, now: datetime) -> Verdict:
    """A bound pod whose container has not started: what is in the way, as far as agent and kubelet say."""
    name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
    if prepare_failure is not None:
        return Verdict(
            "Running",
            "False",
            Reason.PREPARE_FAILED,
            f"node {node} could not cut the slice of pod {name}: {prepare_failure}; the kubelet tries again "
            "by itself",
        )
    since = _bound_since(pod)
    if since is None or now < since + _START_LIMIT:
        return Verdict("Running", "False", Reason.STARTING, f"pod {name} starts on node {node}")
    waiting = (container_status(pod).get("state") or {}).get("waiting") or {}
    quoted = ": ".join(str(waiting[key]) for key in ("reason", "message") if waiting.get(key))
    sandbox = find_condition(pod.get("status", {}).get("conditions"), "PodReadyToStartContainers")
    what = f"its container waits ({quoted})" if quoted else "the kubelet reports no container"
    if sandbox is not None and sandbox.get("status") == "True":
        what += ", and its sandbox exists: the image may still be on its way"
    elif sandbox is not None:
        what += ", and its sandbox (network, devices, memory for the runtime) does not exist"
    return Verdict(
        "Running",
        "False",
        Reason.START_DELAYED,
        f"pod {name} is bound to node {node} since {since:%H:%M:%S} UTC and has not started: {what}; the "
        f"kubelet's events say why: kubectl describe pod {name}",
    )


def start_deadline(pod: Object) -> datetime | None:
    """When a bound pod should have started; None for a pod that is not bound."""
    since = _bound_since(pod)
    return since + _START_LIMIT if since is not None else None


def _bound_since(pod: Object) -> datetime | None:
    bound = find_condition(pod.get("status", {}).get("conditions"), "PodScheduled")
    if bound is None or bound.get("status") != "True" or not bound.get("lastTransitionTime"):
        return None
    return parse_time(bound["lastTransitionTime"])


def _suspended(spec: HeterogeneousTrainingJobSpec, situation: Situation, status: Object) -> Verdict:
    if spec.suspend and situation.active_pods:
        return Verdict("Suspended", "False", Reason.SUSPENDING, "the worker saves its checkpoint and stops")
    if spec.suspend:
        return Verdict(
            "Suspended",
            "True",
            Reason.SUSPENDED,
            "no pod runs and the slice is given back; set spec.suspend to false to go on from the checkpoint",
        )
    before = find_condition(status.get("conditions"), "Suspended")
    if before is not None and before.get("reason") in (Reason.SUSPENDED, Reason.SUSPENDING, Reason.RESUMED):
        return Verdict("Suspended", "False", Reason.RESUMED, "the job goes on from its checkpoint")
    return Verdict("Suspended", "False", Reason.NOT_SUSPENDED, "spec.suspend is not set")


def _failure(spec: HeterogeneousTrainingJobSpec, finish: Finish, ending: Ending | None) -> tuple[Reason, str]:
    """Why the job failed, and what to do: the worker's own word where it has one, else the Job's."""
    if finish.job_reason == "DeadlineExceeded":
        return (
            Reason.DEADLINE_EXCEEDED,
            f"the job was active for more than {spec.active_deadline_seconds} s "
            "(spec.activeDeadlineSeconds), "
            "waiting for a slice included; a new job with the same output and name continues from its "
            "checkpoint",
        )
    if ending is None:
        return Reason.JOB_FAILED, f"the Job failed ({finish.job_reason}): {finish.message}"
    how = end_of(ending)
    if ending.exit_code == EXIT_INVALID:
        return Reason.INVALID_WORKLOAD, f"{ending.message or how}; correct spec.workload in a new job"
    if ending.exit_code == EXIT_CHECK_FAILED:
        return Reason.CHECK_FAILED, f"{how}; result.json in the output says which and by how much"
    if ending.exit_code == EXIT_GPU_OUT_OF_MEMORY:
        return (
            Reason.GPU_OUT_OF_MEMORY,
            f"{how}; ask for a larger slice than {spec.resources.slice.profile} in a new job",
        )
    if ending.runtime_reason == "OOMKilled":
        return (
            Reason.HOST_OUT_OF_MEMORY,
            f"{how} ({spec.resources.host_memory}); raise spec.resources.hostMemory in a new job",
        )
    if finish.job_reason == "BackoffLimitExceeded":
        return (
            Reason.BACKOFF_LIMIT_EXCEEDED,
            f"the worker failed more than {spec.backoff_limit} times, last so: {how}; its log is in the pod",
        )
    return Reason.JOB_FAILED, f"the Job failed ({finish.job_reason}): {how}"
