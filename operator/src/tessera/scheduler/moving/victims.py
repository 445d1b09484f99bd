"""Who may be moved: a running pod of an Indexed Job whose user allows it, with one slice of its own.

The user's word is the annotation `tessera.dev/movable`, the administrator's is `spec.dynamic.moves` of the
MIGPartition.
Only an Indexed Job makes a replacement that can be recognised: same Job, same completion index, same claim.
Members of a gang, pods with several claims or slices, claims that pods share and GPUs as a whole stay where
they are.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from tessera.api import names
from tessera.placement.geometry import Geometry, LegalPlacement
from tessera.placement.move_plans import gpu_seconds_lost
from tessera.placement.request import Offer
from tessera.scheduler.objects import Claim, Pod, positive
from tessera.scheduler.occupancy import Holder
from tessera.scheduler.placing import Placing
from tessera.scheduler.requests import InvalidRequest
from tessera.scheduler.snapshot import Snapshot

RESTART_SECONDS = 30.0
"""From the eviction of a pod to the first step of its replacement, work since the checkpoint apart: the usual
grace time of a pod.
"""
_GRACE_SECONDS = 30
"""The default of Kubernetes."""
RESLICE_SECONDS = 5.0
"""In which the slices of victim and request are cut anew."""

_PROFILE = (names.DRIVER, names.ATTRIBUTE_PROFILE)

Identity = tuple[str, str, str]
"""(Job UID, completion index, pod claim name): who a pod is across replacements."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pod that allows to be moved, and the claim that holds its one slice."""

    pod: Pod
    claim: Claim

    @property
    def identity(self) -> Identity:
        """Who it is across replacements."""
        return identity_of(self.pod)

    @property
    def job_name(self) -> str:
        """The Job that makes its replacement."""
        owners = self.pod.raw["metadata"].get("ownerReferences") or ()
        return next((str(owner["name"]) for owner in owners if owner.get("uid") == self.pod.job_uid), "")

    @property
    def device(self) -> tuple[str, str]:
        """(Pool, device) that it holds."""
        assert self.claim.allocated is not None
        return self.claim.allocated.devices[0]


def identity_of(pod: Pod) -> Identity:
    """Who a pod with one claim is across replacements. Meaningful for pods of Indexed Jobs only."""
    return pod.job_uid, pod.completion_index, pod.claims[0].name


def is_replaceable(pod: Pod) -> bool:
    """Whether a replacement of the pod would be recognised, and whether it can be one."""
    return bool(
        pod.job_uid
        and pod.completion_index
        and pod.gang is None
        and len(pod.claims) == 1
        and pod.claims[0].from_template
    )


def candidate(pod: Pod, snapshot: Snapshot) -> Candidate | None:
    """The pod as one that may be moved, or None."""
    annotations = pod.raw["metadata"].get("annotations") or {}
    if annotations.get(names.MOVABLE_ANNOTATION) != "true":
        return None
    if not pod.node or pod.deleting or pod.finished or not is_replaceable(pod):
        return None
    claim = snapshot.claim_of(pod, pod.claims[0].claim)
    if claim is None or claim.owner_uid != pod.uid or claim.reserved_for != (pod.uid,):
        return None
    if claim.allocated is None or len(claim.allocated.devices) != 1 or claim.deleting:
        return None
    device = snapshot.inventory.device(*claim.allocated.devices[0])
    if device is not None and device.view.attributes.get(_PROFILE) == names.WHOLE_GPU:
        return None
    return Candidate(pod, claim)


def claim_of_holder(owner: Hashable, snapshot: Snapshot) -> Claim | None:
    """The claim behind an entry of the cluster state; None for what a round keeps closed."""
    if not isinstance(owner, Holder):
        return None
    namespace, _, name = owner.claim.partition("/")
    claim = snapshot.claims.get((namespace, name))
    return claim if claim is not None and claim.uid == owner.claim_uid else None


def candidate_of(owner: Hashable, snapshot: Snapshot) -> Candidate | None:
    """The pod behind an entry of the cluster state, when it may be moved."""
    claim = claim_of_holder(owner, snapshot)
    if claim is None:
        return None
    owners = claim.raw["metadata"].get("ownerReferences") or ()
    pod_name = next((one["name"] for one in owners if one.get("uid") == claim.owner_uid), "")
    pod = snapshot.pods.get((claim.key[0], pod_name))
    return None if pod is None or pod.uid != claim.owner_uid else candidate(pod, snapshot)


def grace_seconds(pod: Pod) -> int:
    """For how long an evicted pod may take to end."""
    said = pod.raw["spec"].get("terminationGracePeriodSeconds")
    return _GRACE_SECONDS if said is None else int(said)


def seconds_lost(found: Candidate, geometry: Geometry, placement: LegalPlacement, *, now: float) -> float:
    """What moving it costs, in GPU-seconds: all the work since its allocation, or since its last checkpoint
    when its user says how often it writes one.
    """
    assert found.claim.allocated is not None
    worked = max(0.0, now - found.claim.allocated.since)
    annotations = found.pod.raw["metadata"].get("annotations") or {}
    interval = positive(annotations.get(names.CHECKPOINT_ANNOTATION, ""))
    return gpu_seconds_lost(
        geometry,
        placement,
        since_checkpoint_seconds=worked if interval is None else min(worked, interval),
        restart_seconds=RESTART_SECONDS,
        reslice_seconds=RESLICE_SECONDS,
    )


def targets_of(
    found: Candidate, *, profile: str, home: tuple[int, int], within: int, placing: Placing
) -> tuple[Offer, ...]:
    """Where its replacement may go: to places of its profile that its own claim admits and that are not kept
    free, on the GPUs `within` whose nodes would take one more pod like it.

    `home` is its GPU's number and placement. There, only what is free already counts, because the target of a
    move is held before its victim leaves.
    """
    try:
        (request,) = placing.read(found.claim).requests
    except (InvalidRequest, ValueError):
        return ()
    # As its replacement will be: bound to no node.
    gpus = within & placing.load.fit(replace(found.pod, node="")).gpus
    state = placing.state
    (kept,), _ = placing.reserves.respect([request])
    number, _ = home
    offers: list[Offer] = []
    for alternative in kept.alternatives:
        for offer in alternative.offers:
            geometry = offer.geometry
            profiled = tuple(i for i in offer.placements if geometry.placements[i].profile == profile)
            allowed = gpus if offer.gpus is None else gpus & offer.gpus
            gpu = state.gpus[number]
            if allowed >> number & 1 and gpu.geometry is geometry:
                free = tuple(i for i in profiled if gpu.table.fits(gpu.layout, i))
                offers.append(Offer(geometry, free, 1 << number))
                allowed &= ~(1 << number)
            offers.append(Offer(geometry, profiled, allowed))
    return tuple(one for one in offers if one.placements and one.gpus)
