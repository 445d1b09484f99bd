"""A GPU whose MIG mode is off is one device: the GPU as a whole.

It is a placement like any other, of the profile `gpu` at memory slice 0 over all slices of the GPU. So it is
named, published, tainted and counted as slices are, and who can read those can read it. Only, nothing is cut
for it: the slice of a claim's record is the GPU itself, under its own UUID. It is there before and after the
claim, so nothing has to be undone, and it is never warm.
"""

from __future__ import annotations

from tessera.agent.checkpoint import DeviceRecord, Slice
from tessera.api.names import WHOLE_GPU
from tessera.gpu.device_names import encode
from tessera.gpu.driver import GPU
from tessera.gpu.profiles import GPUModel, Profile

_NOT_NVML = -1
"""In place of the ids of MIG objects."""


def present_model(gpu: GPU) -> GPUModel | None:
    """What can be placed on the GPU in its present MIG mode: its slices, or itself; None where that is not
    known, or the board cannot do MIG.
    """
    if gpu.model is None or gpu.mig_current:
        return gpu.model
    model = gpu.model
    whole = Profile(
        name=WHOLE_GPU,
        enum=_NOT_NVML,
        id=_NOT_NVML,
        compute_slices=model.compute_slices,
        memory_slices=model.memory_slices,
        starts=(0,),
        max_count=1,
        # NVML does not tell those of a GPU without MIG; it has no fewer than its largest slice.
        multiprocessors=max((profile.multiprocessors or 0 for profile in model.profiles), default=0),
        memory_mib=gpu.memory_mib,
    )
    return GPUModel(model.name, model.memory_slices, model.compute_slices, profiles=(whole,))


def whole_device(gpu_uuid: str) -> str:
    """The name of the GPU as a device."""
    return encode(gpu_uuid=gpu_uuid, profile=WHOLE_GPU, start=0)


def whole_slice(device: DeviceRecord) -> Slice:
    """The GPU as what a claim holds."""
    return Slice(
        gpu_uuid=device.gpu_uuid,
        profile=device.profile,
        profile_id=device.profile_id,
        start=device.start,
        size=device.size,
        gpu_instance_id=_NOT_NVML,
        compute_instance_id=_NOT_NVML,
        uuid=device.gpu_uuid,
    )
