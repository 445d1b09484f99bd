"""Rebuilding the ledger when the checkpoint is lost, from everything else that remembers.

Four witnesses are heard. The CDI specs carry a copy of each prepared claim. NVML says which instances
exist; a MIG UUID is new at each creation, so a UUID that matches is proof. The node's `GPUNode` status
lists the slices that we published as ours. The API's claims, and the layouts in the node's spec, say which
placements were meant for this node. An instance that no witness claims stays foreign: it is never touched. A
GPU that does not answer refutes no spec.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping
from typing import Any

from tessera.agent.checkpoint import ClaimRecord, DeviceRecord, Ledger, Phase, Slice
from tessera.agent.claims import AllocatedClaim, PrepareError
from tessera.agent.plan import exists, is_at, resolve, silent
from tessera.api.gpu_node import InstanceState
from tessera.gpu.driver import GPU, GPUInstance
from tessera.gpu.profiles import UnknownProfile

log = logging.getLogger(__name__)


def published_uuids(gpu_node: Mapping[str, Any] | None, *states: InstanceState) -> set[str]:
    """MIG UUIDs that our last status named with one of these states."""
    gpus = ((gpu_node or {}).get("status") or {}).get("gpus") or []
    return {
        instance["uuid"]
        for gpu in gpus
        for instance in gpu.get("instances") or []
        if instance.get("uuid") and instance.get("state") in states
    }


def rebuild(
    *,
    gpus: Iterable[GPU],
    specs: Iterable[ClaimRecord],
    claims: Iterable[AllocatedClaim],
    published: set[str],
    foreign: Container[str] = (),
) -> Ledger:
    """The ledger that fits the witnesses. `published` are the slices that were ours, `foreign` the others;
    layouts stand among the claims.

    Half-made instances of allocated claims come back as unfinished, to be undone.
    """
    by_uuid = {gpu.uuid: gpu for gpu in gpus}
    ledger = Ledger()
    for record in specs:
        slices = [device.slice for device in record.devices]
        if all(exists(made, by_uuid) or silent(made, by_uuid) for made in slices):
            ledger.claims[record.key.uid] = record
    for gpu in by_uuid.values():
        for instance in gpu.instances:
            made = _as_slice(gpu, instance)
            if made is not None and made.uuid in published and ledger.holder(made.uuid) is None:
                ledger.warm[made.uuid] = made
    for claim in claims:
        if claim.key.uid not in ledger.claims:
            _take_in(claim, by_uuid, ledger, foreign)
    return ledger


def _as_slice(gpu: GPU, instance: GPUInstance) -> Slice | None:
    """The instance as a slice of ours; None when it has no compute instance, or several (we make one)."""
    if gpu.model is None or len(instance.compute) != 1:
        return None
    try:
        profile = gpu.model.profile_by_id(instance.profile_id)
    except UnknownProfile:
        return None  # we only make what the table has
    return Slice(
        gpu_uuid=gpu.uuid,
        profile=profile.name,
        profile_id=instance.profile_id,
        start=instance.start,
        size=instance.size,
        gpu_instance_id=instance.id,
        compute_instance_id=instance.compute[0].id,
        uuid=instance.compute[0].uuid,
    )


def _take_in(claim: AllocatedClaim, gpus: Mapping[str, GPU], ledger: Ledger, foreign: Container[str]) -> None:
    """An allocated claim without a spec, or a layout:

    a whole instance at its placement is kept warm for it, a half-made one is undone.
    """
    unfinished: list[DeviceRecord] = []
    for allocated in claim.devices:
        try:
            device = resolve(allocated, gpus)
        except PrepareError as error:
            log.warning("claim %s: %s", claim.key, error)
            continue
        for instance in gpus[device.gpu_uuid].instances:
            made = _as_slice(gpus[device.gpu_uuid], instance)
            if not is_at(instance, device):
                continue
            if not instance.compute:
                unfinished.append(device)
            elif made is not None and made.uuid not in foreign and ledger.holder(made.uuid) is None:
                ledger.warm[made.uuid] = made
    if unfinished:
        ledger.claims[claim.key.uid] = ClaimRecord(
            key=claim.key, phase=Phase.PREPARING, devices=tuple(unfinished)
        )
