"""Typed NVML over the unmodified `pynvml`: plain values in, frozen dataclasses out, `NVMLFault` on any error.

Objects are named by UUID and id, never by handle: a handle dies with its instance and with the process. A
GPU's geometry is asked from the driver (profile info v2 for every enum, then the possible placements by
*id*), because only the driver knows its board. Possible placements ignore occupancy, so the caller does
the occupancy arithmetic.

`pynvml` keeps its library in a module global. A simulator takes that library's place; since several
simulated nodes may live in one program, the global is set anew, under a lock, for each operation.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pynvml

from tessera.gpu.driver import GPU, ComputeInstance, Events, GPUInstance, Inventory
from tessera.gpu.faults import (
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    INSUFFICIENT_SIZE,
    INVALID_ARGUMENT,
    NOT_SUPPORTED,
    RESET_REQUIRED,
    NVMLFault,
)
from tessera.gpu.nvml_call import call as _call
from tessera.gpu.nvml_call import handles
from tessera.gpu.nvml_call import text as _text
from tessera.gpu.nvml_events import EventSets
from tessera.gpu.profiles import GPUModel, Profile, model_name_by_pci

_binding = threading.RLock()
_bound: object | None = None

_SHARED_ENGINES = 0
_ARCHITECTURES = {7: "ampere", 8: "ada", 9: "hopper", 10: "blackwell", 13: "rubin"}
_MAX_INSTANCES = 16
_MOST_PROFILES = 64


class NVML:
    """A session with one driver. `library` is a simulator with NVML's C symbols; None loads the real one."""

    def __init__(self, library: object | None = None) -> None:
        self._library = library
        self._open = False
        self._event_sets = EventSets()

    @contextmanager
    def _session(self) -> Iterator[None]:
        """Bind pynvml to this session's library and initialise it once."""
        global _bound
        with _binding:
            if _bound is not self._library:
                pynvml.nvmlLib = self._library
                pynvml._nvmlGetFunctionPointer_cache.clear()
                _bound = self._library
            if not self._open:
                _call(pynvml.nvmlInit)
                self._open = True
            yield

    def close(self) -> None:
        """Shut the session down; harmless when it is not open."""
        if self._open:
            with self._session():
                self._open = False
                self._event_sets.forget()
                _call(pynvml.nvmlShutdown)

    def events(self) -> Events:
        """Xids since the last call."""
        with self._session():
            return self._event_sets.read()

    def inventory(self) -> Inventory:
        """Driver versions and every GPU.

        A GPU that answers with an error is listed with that fault; one that fell off the bus is missing when
        the driver does not even know its UUID.
        """
        with self._session():
            gpus = tuple(_gpu(index, uuid, handle) for index, uuid, handle in handles())
            return Inventory(
                driver_version=_text(_call(pynvml.nvmlSystemGetDriverVersion)),
                nvml_version=_text(_call(pynvml.nvmlSystemGetNVMLVersion)),
                gpus=gpus,
            )

    def instances(self, gpu_uuid: str) -> tuple[GPUInstance, ...]:
        """The GPU's instances, by start."""
        with self._session():
            handle = _gpu_handle(gpu_uuid)
            return _instances(handle, gpu_uuid, _profiles(handle, gpu_uuid))

    def processes(self, mig_uuid: str) -> tuple[int, ...]:
        """Process ids that run on the MIG device."""
        with self._session():
            running = _call(
                pynvml.nvmlDeviceGetComputeRunningProcesses, _gpu_handle(mig_uuid), target=mig_uuid
            )
            return tuple(int(process.pid) for process in running)

    def set_mig_mode(self, gpu_uuid: str, enabled: bool) -> int:
        """Switch MIG mode; returns the activation status, apart from the call's own result."""
        with self._session():
            return int(
                _call(pynvml.nvmlDeviceSetMigMode, _gpu_handle(gpu_uuid), int(enabled), target=gpu_uuid)
            )

    def create_gpu_instance(self, gpu_uuid: str, profile_id: int, start: int, size: int) -> int:
        """Create a GPU instance at an explicit placement; the driver's own choice depends on the order of
        calls.
        """
        with self._session():
            placement = pynvml.c_nvmlGpuInstancePlacement_t(start, size)
            target = f"{gpu_uuid} profile {profile_id} at {start}:{size}"
            instance = _call(
                pynvml.nvmlDeviceCreateGpuInstanceWithPlacement,
                _gpu_handle(gpu_uuid),
                profile_id,
                ctypes.byref(placement),
                target=target,
            )
            return int(_call(pynvml.nvmlGpuInstanceGetInfo, instance, target=target).id)

    def create_compute_instance(self, gpu_uuid: str, gpu_instance_id: int) -> ComputeInstance:
        """Create the compute instance that takes the whole GPU instance, and read its MIG UUID."""
        with self._session():
            handle = _gpu_handle(gpu_uuid)
            target = f"{gpu_uuid} GPU instance {gpu_instance_id}"
            instance = _call(pynvml.nvmlDeviceGetGpuInstanceById, handle, gpu_instance_id, target=target)
            info = _call(pynvml.nvmlGpuInstanceGetInfo, instance, target=target)
            profile = _call(
                pynvml.nvmlDeviceGetGpuInstanceProfileInfoById, handle, int(info.profileId), target=target
            )
            wanted = _full_width_profile(instance, int(profile.sliceCount), target)
            compute = _call(pynvml.nvmlGpuInstanceCreateComputeInstance, instance, wanted, target=target)
            return _compute(compute, target)

    def destroy_compute_instance(self, gpu_uuid: str, gpu_instance_id: int, compute_instance_id: int) -> None:
        """Destroy one compute instance; raises `IN_USE` while a process runs on it."""
        with self._session():
            target = f"{gpu_uuid} GPU instance {gpu_instance_id} compute instance {compute_instance_id}"
            instance = _call(
                pynvml.nvmlDeviceGetGpuInstanceById, _gpu_handle(gpu_uuid), gpu_instance_id, target=target
            )
            compute = _call(
                pynvml.nvmlGpuInstanceGetComputeInstanceById, instance, compute_instance_id, target=target
            )
            _call(pynvml.nvmlComputeInstanceDestroy, compute, target=target)

    def destroy_gpu_instance(self, gpu_uuid: str, gpu_instance_id: int) -> None:
        """Destroy one GPU instance; raises `IN_USE` while it has a compute instance."""
        with self._session():
            target = f"{gpu_uuid} GPU instance {gpu_instance_id}"
            instance = _call(
                pynvml.nvmlDeviceGetGpuInstanceById, _gpu_handle(gpu_uuid), gpu_instance_id, target=target
            )
            _call(pynvml.nvmlGpuInstanceDestroy, instance, target=target)


def _gpu(index: int, uuid: str, handle: Any) -> GPU:
    product, memory, architecture, current, pending = "", 0, "", False, False
    geometry: GPUModel | None = None
    instances: tuple[GPUInstance, ...] = ()
    action: int | None = None
    virtualization = 0
    fault, lost = "", False
    try:
        product = _text(_call(pynvml.nvmlDeviceGetName, handle, target=uuid))
        memory = int(_call(pynvml.nvmlDeviceGetMemoryInfo, handle, target=uuid).total) // (1024 * 1024)
        architecture = _ARCHITECTURES.get(
            int(_call(pynvml.nvmlDeviceGetArchitecture, handle, target=uuid)), ""
        )
        mode = _mig_mode(handle, uuid)
        if mode is not None:
            current, pending = mode
            pci = _call(pynvml.nvmlDeviceGetPciInfo, handle, target=uuid)
            profiles = _profiles(handle, uuid)
            name = model_name_by_pci(int(pci.pciDeviceId) >> 16, product)
            geometry = _geometry(handle, uuid, name, profiles)
            instances = _instances(handle, uuid, profiles) if current else ()
            action = _recovery_action(handle, uuid)
            virtualization = _virtualization(handle, uuid)
    except NVMLFault as error:
        fault, lost = str(error), error.code in (GPU_IS_LOST, RESET_REQUIRED)
    return GPU(
        index=index,
        uuid=uuid,
        product=product,
        memory_mib=memory,
        architecture=architecture,
        mig_current=current,
        mig_pending=pending,
        model=geometry,
        instances=instances,
        fault=fault,
        lost=lost,
        recovery_action=action,
        virtualization=virtualization,
    )


def _gpu_handle(gpu_uuid: str) -> Any:
    return _call(pynvml.nvmlDeviceGetHandleByUUID, gpu_uuid, target=gpu_uuid)


def _mig_mode(handle: Any, uuid: str) -> tuple[bool, bool] | None:
    """(current, pending), or None for a GPU that cannot do MIG."""
    try:
        current, pending = _call(pynvml.nvmlDeviceGetMigMode, handle, target=uuid)
    except NVMLFault as fault:
        if fault.code == NOT_SUPPORTED:
            return None
        raise
    return bool(current), bool(pending)


def _recovery_action(handle: Any, uuid: str) -> int | None:
    """What the driver says the GPU needs; None from a driver that does not say (before 565)."""
    try:
        (value,) = _call(
            pynvml.nvmlDeviceGetFieldValues,
            handle,
            [pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION],
            target=uuid,
        )
    except NVMLFault as fault:
        if fault.code in (NOT_SUPPORTED, FUNCTION_NOT_FOUND):
            return None
        raise
    return None if value.nvmlReturn else int(value.value.uiVal)


def _virtualization(handle: Any, uuid: str) -> int:
    try:
        return int(_call(pynvml.nvmlDeviceGetVirtualizationMode, handle, target=uuid))
    except NVMLFault as fault:
        if fault.code == NOT_SUPPORTED:
            return 0
        raise


def _profiles(handle: Any, uuid: str) -> dict[int, Any]:
    """Enum -> info of every profile of the board. The driver says where its list ends: an older one knows
    fewer enums than this binding, a newer one more.
    """
    found: dict[int, Any] = {}
    for enum in range(_MOST_PROFILES):
        try:
            found[enum] = _call(pynvml.nvmlDeviceGetGpuInstanceProfileInfo, handle, enum, target=uuid)
        except NVMLFault as fault:
            if fault.code == INVALID_ARGUMENT:
                break
            if fault.code != NOT_SUPPORTED:
                raise
    return found


def _geometry(handle: Any, uuid: str, name: str, profiles: Mapping[int, Any]) -> GPUModel:
    """Ask the driver for the legal starts of every profile."""
    placeable = [
        _profile(enum, info, placements)
        for enum, info in profiles.items()
        if (placements := _possible_placements(handle, uuid, int(info.id)))
    ]
    return GPUModel.from_profiles(name, placeable)


def _profile(enum: int, info: Any, placements: tuple[tuple[int, int], ...]) -> Profile:
    return Profile(
        name=_text(info.name).removeprefix("MIG "),  # nvidia-smi prints the prefix; some drivers return it
        enum=enum,
        id=int(info.id),
        compute_slices=int(info.sliceCount),
        memory_slices=placements[0][1],
        starts=tuple(start for start, _ in placements),
        max_count=int(info.instanceCount),
        multiprocessors=int(info.multiprocessorCount),
        memory_mib=int(info.memorySizeMB),
        copy_engines=int(info.copyEngineCount),
        decoders=int(info.decoderCount),
        encoders=int(info.encoderCount),
        jpeg_engines=int(info.jpegCount),
        optical_flow_engines=int(info.ofaCount),
    )


def _possible_placements(handle: Any, uuid: str, profile_id: int) -> tuple[tuple[int, int], ...]:
    """(start, size) of every legal placement, by start: NVML's two calls, first the count, then the list."""
    count = ctypes.c_uint(0)
    query = pynvml.nvmlDeviceGetGpuInstancePossiblePlacements
    try:
        _call(query, handle, profile_id, None, ctypes.byref(count), target=uuid)
    except NVMLFault as fault:
        if fault.code != INSUFFICIENT_SIZE:
            raise
    if count.value == 0:
        return ()
    buffer = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    _call(query, handle, profile_id, buffer, ctypes.byref(count), target=uuid)
    return tuple(sorted((int(item.start), int(item.size)) for item in buffer[: count.value]))


def _instances(handle: Any, uuid: str, profiles: Mapping[int, Any]) -> tuple[GPUInstance, ...]:
    """Walk all profiles: NVML lists GPU instances by profile id only."""
    found: list[GPUInstance] = []
    for profile in profiles.values():
        buffer = (pynvml.c_nvmlGpuInstance_t * _MAX_INSTANCES)()
        count = ctypes.c_uint(_MAX_INSTANCES)
        _call(
            pynvml.nvmlDeviceGetGpuInstances,
            handle,
            int(profile.id),
            buffer,
            ctypes.byref(count),
            target=uuid,
        )
        found.extend(_instance(buffer[position], uuid) for position in range(count.value))
    return tuple(sorted(found, key=lambda instance: instance.start))


def _instance(instance: Any, uuid: str) -> GPUInstance:
    info = _call(pynvml.nvmlGpuInstanceGetInfo, instance, target=uuid)
    target = f"{uuid} GPU instance {int(info.id)}"
    compute: list[ComputeInstance] = []
    for profile_id in sorted({int(profile.id) for profile in _compute_profiles(instance, target)}):
        buffer = (pynvml.c_nvmlComputeInstance_t * _MAX_INSTANCES)()
        count = ctypes.c_uint(_MAX_INSTANCES)
        _call(
            pynvml.nvmlGpuInstanceGetComputeInstances,
            instance,
            profile_id,
            buffer,
            ctypes.byref(count),
            target=target,
        )
        compute.extend(_compute(buffer[position], target) for position in range(count.value))
    return GPUInstance(
        id=int(info.id),
        profile_id=int(info.profileId),
        start=int(info.placement.start),
        size=int(info.placement.size),
        compute=tuple(sorted(compute, key=lambda item: item.id)),
    )


def _compute_profiles(instance: Any, target: str) -> Iterator[Any]:
    """Every compute profile this GPU instance has; absent ones are skipped."""
    for enum in range(pynvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
        try:
            yield _call(
                pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo,
                instance,
                enum,
                _SHARED_ENGINES,
                target=target,
            )
        except NVMLFault as fault:
            if fault.code == INVALID_ARGUMENT:
                return
            if fault.code != NOT_SUPPORTED:
                raise


def _full_width_profile(instance: Any, slices: int, target: str) -> int:
    """The compute profile as wide as the GPU instance: the lowest enum wins, so never 7_SLICE_NVL on a 7g."""
    for profile in _compute_profiles(instance, target):
        if int(profile.sliceCount) == slices:
            return int(profile.id)
    raise NVMLFault(NOT_SUPPORTED, call="nvmlGpuInstanceGetComputeInstanceProfileInfo", target=target)


def _compute(compute: Any, target: str) -> ComputeInstance:
    """UUID through the instance's own device handle; walking all MIG devices is far slower under load."""
    info = _call(pynvml.nvmlComputeInstanceGetInfo_v2, compute, target=target)
    uuid = _text(_call(pynvml.nvmlDeviceGetUUID, info.device, target=target))
    return ComputeInstance(id=int(info.id), profile_id=int(info.profileId), uuid=uuid)
