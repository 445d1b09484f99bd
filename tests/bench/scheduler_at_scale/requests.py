"""What is asked for: templates, pods, and the mix of profiles. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from scheduler_objects import devices_where, exactly
from tessera.api import names

Object = dict[str, Any]
MIX = (("1g.10gb", 0.5), ("2g.20gb", 0.3), ("3g.40gb", 0.2))
MEMORY_SLICES = {"1g.10gb": 1, "2g.20gb": 2, "3g.40gb": 4}
MOVABLE_SHARE = 0.3
MOVABLE_ANNOTATION = "tessera.dev/movable"
UNPLACEABLE = "unplaceable"


@dataclass(frozen=True, slots=True)
class PodRequest:
    """One pod to create; `profile` is None for a pod without a claim."""

    name: str
    profile: str | None
    movable: bool = False

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
        PodRequest(f"{prefix}-{number}", profile, moves)
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


def pod(
    request: PodRequest, *, gated: bool, template: str | None = None, selector: dict[str, str] | None = None
) -> Object:
    """The Pod. It asks for CPU and names an operating system, so that the node filters have work to do."""
    source = template or (template_name(request.profile) if request.profile else None)
    claims = [{"name": names.POD_CLAIM_NAME, "resourceClaimTemplateName": source}] if source else []
    gates = [{"name": names.PLACEMENT_GATE}] if gated and source else []
    resources: Object = {"requests": {"cpu": "100m", "memory": "64Mi"}}
    if claims:
        resources["claims"] = [{"name": names.POD_CLAIM_NAME}]
    return {
        "metadata": {
            "name": request.name,
            "annotations": {MOVABLE_ANNOTATION: "true"} if request.movable else {},
        },
        "spec": {
            "schedulingGates": gates,
            "nodeSelector": {"kubernetes.io/os": "linux"} | (selector or {}),
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "resourceClaims": claims,
            "containers": [{"name": "main", "image": "example.invalid/none", "resources": resources}],
        },
    }
