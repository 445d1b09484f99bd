"""The node's `GPUNode`: made once, its status written whenever what we see differs from what was written
last.

`status_for` is pure. Whatever is wrong with the node ends in the one condition `Ready`: its reason says
what, its message says why and what to do; a node without a driver is a state to report, not an error to
die of.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tessera.agent.checkpoint import Ledger
from tessera.agent.claims import ClaimKey, PrepareFailure
from tessera.agent.devices import Owner, device_at
from tessera.agent.health import Ailments, healthy
from tessera.agent.layouts import Progress
from tessera.agent.mig_mode import describe, offers_new
from tessera.agent.whole import whole_device
from tessera.api.gpu_node import CuttableModel, CuttableProfile
from tessera.api.names import API_VERSION, WHOLE_GPU
from tessera.api.reasons import Reason
from tessera.gpu.driver import GPU, GPUInstance, Inventory
from tessera.gpu.faults import NVMLFault
from tessera.gpu.profiles import GPUModel
from tessera.kube.client import KubeClient
from tessera.kube.conditions import set_condition, timestamp
from tessera.kube.resources import GPU_NODES

log = logging.getLogger(__name__)

Object = dict[str, Any]
_DRIVER_ABSENT = {9, 12}
READY = "Ready"


@dataclass(frozen=True, slots=True)
class View:
    """What the agent knows at one moment. `inventory` is the last good one when `fault` is set."""

    inventory: Inventory | None
    ledger: Ledger
    fault: NVMLFault | None = None
    registered: bool = False
    simulated: bool = False
    others: tuple[str, ...] = ()
    """Who else manages the GPUs, each with its remedy."""
    ailments: Ailments = field(default_factory=dict)
    mig_wishes: Mapping[str, bool] = field(default_factory=dict)
    """Whether MIG mode is to be on, by GPU UUID; missing where it is left alone."""
    mig_notes: Mapping[str, str] = field(default_factory=dict)
    """What keeps MIG mode from being so, by GPU UUID."""
    prepare_failures: tuple[PrepareFailure, ...] = ()
    layouts: Mapping[str, Progress] = field(default_factory=dict)


def readiness(view: View) -> tuple[bool, Reason, str]:
    """(ready, reason, message with remedy): the most basic trouble first."""
    if view.others:
        found = "; ".join(view.others)
        return (
            False,
            Reason.MANAGED_BY_OTHERS,
            f"others manage the GPUs of this node, so nothing is offered and nothing changed: {found}",
        )
    if view.fault is not None:
        reason = Reason.DRIVER_MISSING if view.fault.code in _DRIVER_ABSENT else Reason.NVML_ERROR
        return False, reason, f"{view.fault}; the agent tries again by itself"
    gpus = view.inventory.gpus if view.inventory else ()
    capable = [gpu for gpu in gpus if gpu.model is not None or gpu.fault]
    if not gpus and view.simulated:
        return (
            False,
            Reason.NO_GPUS,
            "the simulator has no GPUs; start the agent with --simulate-count 1 or more",
        )
    if not capable:
        seen = ", ".join(gpu.product for gpu in gpus) or "none"
        return (
            False,
            Reason.NO_GPUS,
            f"no GPU of this node can do MIG (seen: {seen}); MIG needs an A30, A100, H100, H200, B200 or "
            "newer data-centre GPU: "
            "take the agent's label off this node",
        )
    sick = [gpu for gpu in capable if not is_healthy(gpu, view)]
    usable = [
        gpu
        for gpu in capable
        if gpu not in sick
        and offers_new(gpu, wish=view.mig_wishes.get(gpu.uuid), has_layout=gpu.uuid in view.layouts)
    ]
    notes = [
        f"GPU {gpu.index} ({gpu.uuid}): {trouble}" for gpu in capable if (trouble := _trouble(gpu, view))
    ]
    modes = (
        describe(gpu, wish=view.mig_wishes.get(gpu.uuid), note=view.mig_notes.get(gpu.uuid, ""))
        for gpu in capable
        if gpu not in sick
    )
    notes += filter(None, modes)
    if not usable:
        return False, Reason.GPU_UNHEALTHY if sick else Reason.MIG_DISABLED, "; ".join(notes)
    if not view.registered:
        return (
            False,
            Reason.KUBELET_NOT_REGISTERED,
            "the kubelet has not registered the plugin yet; "
            "check that the agent's --kubelet-dir is the kubelet's --root-dir",
        )
    text = f"{len(usable)} of {len(gpus)} GPUs are published"
    return True, Reason.PUBLISHED, "; ".join([text, *notes])


def is_healthy(gpu: GPU, view: View) -> bool:
    """Whether the GPU may take new work, on one of its slices at least."""
    return view.fault is None and not gpu.fault and healthy(view.ailments.get(gpu.uuid, ()))


def _trouble(gpu: GPU, view: View) -> str:
    """What is wrong with the GPU, in words."""
    ailments = view.ailments.get(gpu.uuid, ())
    return "; ".join(ailment.message for ailment in ailments) or gpu.fault


def status_for(
    view: View, *, generation: int, before: Mapping[str, Any] | None, now: datetime | None = None
) -> Object:
    """The whole status. `before` is the present one: conditions keep their transition time."""
    ready, reason, message = readiness(view)
    status: Object = {
        "observedGeneration": generation,
        "conditions": set_condition(
            (before or {}).get("conditions"),
            type=READY,
            status=ready,
            reason=reason,
            message=message,
            generation=generation,
            now=now,
        ),
        "gpus": [_gpu(gpu, view) for gpu in (view.inventory.gpus if view.inventory else ())],
    }
    if view.inventory is not None:
        models = _models(view.inventory, (before or {}).get("models") or [])
        if models:
            status["models"] = [models[name] for name in sorted(models)]
        status["driver"] = {
            "version": view.inventory.driver_version,
            "nvml": view.inventory.nvml_version,
            "simulated": view.simulated,
        }
        told = (one for gpu in view.inventory.gpus for one in instances_on(gpu, view.ledger))
        status["gpuCount"] = len(view.inventory.gpus)
        status["slicesInUse"] = sum(one["state"] == "InUse" for one in told)
    if view.prepare_failures:
        # Not the time of the last try: a status that says nothing new is not written.
        status["prepareFailures"] = [
            {
                "claim": _claim(failure.claim),
                "message": failure.message[:1024],
                "since": timestamp(failure.since),
            }
            for failure in view.prepare_failures
        ]
    return status


def _gpu(gpu: GPU, view: View) -> Object:
    trouble = str(view.fault) if view.fault else _trouble(gpu, view)
    entry: Object = {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "healthy": is_healthy(gpu, view),
    }
    if trouble:
        entry["healthMessage"] = trouble[:1024]
    if gpu.product:
        entry["productName"] = gpu.product
    if gpu.model is not None:
        entry |= {
            "model": gpu.model.name,
            "migMode": mig_mode(gpu),
            "memorySlices": gpu.model.memory_slices,
            "computeSlices": gpu.model.compute_slices,
        }
        entry["instances"] = instances_on(gpu, view.ledger)
    if gpu.uuid in view.layouts:
        entry["layout"] = _layout(view.layouts[gpu.uuid])
    return entry


def _layout(progress: Progress) -> Object:
    entry: Object = {"state": progress.state}
    if progress.generation is not None:
        entry["generation"] = progress.generation
    if progress.message:
        entry["message"] = progress.message[:1024]
    if progress.blockers:
        entry["blockers"] = [_claim(key) for key in progress.blockers]
    return entry


def _models(inventory: Inventory, told: Iterable[Object]) -> dict[str, Object]:
    """What each model can be cut into, by name. Of one whose GPUs do not answer, what was `told` before."""
    models = {item["model"]: item for item in told}
    found: dict[str, Object] = {}
    for gpu in sorted(inventory.gpus, key=lambda gpu: not gpu.fault):
        if gpu.model is not None:
            name = gpu.model.name
            found[name] = models[name] if gpu.fault and name in models else cuttable(gpu.model).to_json()
    return found


def cuttable(model: GPUModel) -> CuttableModel:
    """What GPUs of the model can be cut into, for readers without its table of profiles."""
    return CuttableModel(
        model=model.name,
        memory_slices=model.memory_slices,
        compute_slices=model.compute_slices,
        media_engines=model.media_engines,
        profiles=[
            CuttableProfile(
                profile=profile.name,
                starts=list(profile.starts),
                memory_slices=profile.memory_slices,
                compute_slices=profile.compute_slices,
                media_extensions=profile.media_extensions,
                media_engines=(profile.decoders or 0) if model.media_engines else 0,
            )
            for profile in model.profiles
        ],
    )


def mig_mode(gpu: GPU) -> str:
    """The mode in one word, with a change that waits for a reset."""
    if gpu.mig_current == gpu.mig_pending:
        return "Enabled" if gpu.mig_current else "Disabled"
    return "EnablePending" if gpu.mig_pending else "DisablePending"


def state_of(instance: GPUInstance, ledger: Ledger) -> str:
    """InUse, Warm or Foreign."""
    for compute in instance.compute:
        if ledger.holder(compute.uuid) is not None:
            return "InUse"
        if compute.uuid in ledger.warm:
            return "Warm"
    return "Foreign"


def foreign_instances(inventory: Inventory, ledger: Ledger) -> dict[str, list[GPUInstance]]:
    """What is not ours, by GPU UUID."""
    return {
        gpu.uuid: [instance for instance in gpu.instances if state_of(instance, ledger) == "Foreign"]
        for gpu in inventory.gpus
    }


def instances_on(gpu: GPU, ledger: Ledger) -> list[Object]:
    """The GPU's instances; of a GPU as a whole that a claim holds, the one that it is itself."""
    if gpu.model is None:
        return []
    holder = ledger.holder(gpu.uuid)
    if holder is None or gpu.mig_current:
        return [_instance(gpu, instance, ledger) for instance in gpu.instances]
    whole = {
        "device": whole_device(gpu.uuid),
        "profile": WHOLE_GPU,
        "start": 0,
        "size": gpu.model.memory_slices,
        "uuid": gpu.uuid,
        "state": "InUse",
        "claim": _claim(holder),
    }
    return [whole]


def _instance(gpu: GPU, instance: GPUInstance, ledger: Ledger) -> Object:
    assert gpu.model is not None
    entry: Object = {
        "device": device_at(gpu, instance),
        "profile": gpu.model.profile_name(instance.profile_id),
        "start": instance.start,
        "size": instance.size,
        "gpuInstanceId": instance.id,
        "state": state_of(instance, ledger),
    }
    for compute in instance.compute[:1]:
        entry |= {"uuid": compute.uuid, "computeInstanceId": compute.id}
        holder = ledger.holder(compute.uuid)
        if holder is not None:
            entry["claim"] = _claim(holder)
    return entry


def _claim(key: ClaimKey) -> Object:
    return {"namespace": key.namespace, "name": key.name, "uid": key.uid}


class GPUNodeWriter:
    """Writes one node's GPUNode. The agent is the only writer of its status."""

    def __init__(self, client: KubeClient, owner: Owner) -> None:
        self._client = client
        self._owner = owner

    async def ensure(self) -> Object:
        """The GPUNode object, made when it is missing. Raises `ApiError` or `Unreachable`."""
        found = await self._client.list(GPU_NODES, field_selector=f"metadata.name={self._owner.name}")
        if found.items:
            return found.items[0]
        return await self._client.apply(
            GPU_NODES,
            {
                "apiVersion": API_VERSION,
                "kind": GPU_NODES.kind,
                "metadata": {
                    "name": self._owner.name,
                    "ownerReferences": [
                        {"apiVersion": "v1", "kind": "Node", "name": self._owner.name, "uid": self._owner.uid}
                    ],
                },
            },
        )

    async def write(self, view: View, *, present: Object) -> None:
        """Write the status when it differs from that of `present`, the object whose spec was acted upon: it
        may have a newer spec by now. Raises `ApiError` or `Unreachable`.
        """
        before = present.get("status") or {}
        generation = int(present["metadata"].get("generation") or 0)
        status = status_for(view, generation=generation, before=before)
        if status == before:
            return
        await self._client.apply(
            GPU_NODES,
            {
                "apiVersion": API_VERSION,
                "kind": GPU_NODES.kind,
                "metadata": {"name": self._owner.name},
                "status": status,
            },
            subresource="status",
        )
