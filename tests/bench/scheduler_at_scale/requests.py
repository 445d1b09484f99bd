"""What is asked for: templates, pods, and the mix of profiles. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from scheduler_objects import devices_where, exactly
from tessera.api import names
from tessera.local.kwok import DURATION_ANNOTATION

Object = dict[str, Any]
MIX = (("1g.10gb", 0.5), ("2g.20gb", 0.3), ("3g.40gb", 0.2))
MEMORY_SLICES = {"1g.10gb": 1, "2g.20gb": 2, "3g.40gb": 4}
MOVABLE_SHARE = 0.3
UNPLACEABLE = "unplaceable"
JOB_MANAGER = "bench.tessera.dev/load"
COMPLETION_INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True, slots=True)
class PodRequest:
    """One pod to create; `profile` is None for a pod without a claim, `job` is "" for a pod without a Job."""

    name: str
    profile: str | None
    movable: bool = False
    job: str = ""
    index: int = 0

    @property
    def memory_slices(self) -> int:
        """What it takes of a GPU with 8 memory slices."""
        return MEMORY_SLICES[self.profile] if self.profile else 0


def draw(count: int, *, prefix: str, seed: int) -> list[PodRequest]:
    """`count` requests in random order whose shares are those of `MIX`, rounded, and not only on average."""
    profiles: list[str] = []
    for profile, share in MIX[1:]:
        profiles += [profile] * round(count * share)
    profiles += [MIX[0][0]] * (count - len(profiles))
    movable = [number < round(count * MOVABLE_SHARE) for number in range(count)]
    dice = random.Random(seed)
    dice.shuffle(profiles)
    dice.shuffle(movable)
    return [
        PodRequest(f"{prefix}-{number}", profile, moves, job=prefix, index=number)
        for number, (profile, moves) in enumerate(zip(profiles, movable, strict=True))
    ]


def demand(memory_slices: int, *, prefix: str, seed: int) -> list[PodRequest]:
    """Requests of the mix that ask for about that many memory slices together (never for less)."""
    mean = sum(MEMORY_SLICES[profile] * share for profile, share in MIX)
    requests = draw(round(memory_slices / mean) + 1, prefix=prefix, seed=seed)
    while sum(request.memory_slices for request in requests) < memory_slices:
        requests = draw(len(requests) + 1, prefix=prefix, seed=seed)
    return requests


def templates() -> list[Object]:
    """One ResourceClaimTemplate per profile, and one that no device of any node can serve."""
    requests = {template_name(profile): exactly(profile) for profile, _ in MIX}
    requests[UNPLACEABLE] = devices_where(f'device.attributes["{names.DRIVER}"].memorySlices == 99')
    return [
        {"metadata": {"name": name}, "spec": {"spec": {"devices": {"requests": [one]}}}}
        for name, one in requests.items()
    ]


def template_name(profile: str) -> str:
    """Where the claims of a profile come from."""
    return profile.replace(".", "-")


def job(name: str, completions: int) -> Object:
    """The Indexed Job of a set of pods, as the policy movable-job wants it. The load makes its pods; the
    template of the pods is there because the API asks for one.
    """
    ignored = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    return {
        "metadata": {"name": name},
        "spec": {
            "managedBy": JOB_MANAGER,
            "completionMode": "Indexed",
            "completions": completions,
            "parallelism": completions,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [ignored]},
            "template": {
                "metadata": {"annotations": {names.MOVABLE_ANNOTATION: "true"}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "main", "image": "example.invalid/none"}],
                },
            },
        },
    }


def pod(
    request: PodRequest,
    *,
    gated: bool,
    name: str | None = None,
    template: str | None = None,
    selector: dict[str, str] | None = None,
    job_uid: str | None = None,
) -> Object:
    """The Pod. It asks for CPU and names an operating system, so that the node filters have work to do.
    With `job_uid` it belongs to its Job and would run for a day.
    """
    source = template or (template_name(request.profile) if request.profile else None)
    claims = [{"name": names.POD_CLAIM_NAME, "resourceClaimTemplateName": source}] if source else []
    gates = [{"name": names.PLACEMENT_GATE}] if gated and source else []
    resources: Object = {"requests": {"cpu": "100m", "memory": "64Mi"}}
    if claims:
        resources["claims"] = [{"name": names.POD_CLAIM_NAME}]
    metadata: Object = {
        "name": name or request.name,
        "annotations": {names.MOVABLE_ANNOTATION: "true"} if request.movable else {},
    }
    if job_uid:
        metadata["labels"] = {COMPLETION_INDEX: str(request.index)}
        metadata["annotations"][DURATION_ANNOTATION] = "24h"
        metadata["ownerReferences"] = [
            {"apiVersion": "batch/v1", "kind": "Job", "name": request.job, "uid": job_uid, "controller": True}
        ]
    return {
        "metadata": metadata,
        "spec": {
            "schedulingGates": gates,
            "restartPolicy": "Never",
            "nodeSelector": {"kubernetes.io/os": "linux"} | (selector or {}),
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "resourceClaims": claims,
            "containers": [{"name": "main", "image": "example.invalid/none", "resources": resources}],
        },
    }
