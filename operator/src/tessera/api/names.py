"""Every name that Tessera puts on, or looks for in, a Kubernetes object.

A name is a contract: the agent publishes it, the scheduler and users' CEL expressions read it, the
admission policies of the chart spell it again. So each is written once, here.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "tessera.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
CATEGORY: Final = "tessera"

# Dynamic resource allocation.
DRIVER: Final = "gpu.tessera.dev"
DEVICE_CLASS: Final = "slice.tessera.dev"
DEVICE_TAINT_KEY: Final = "tessera.dev/managed"
DEVICE_TAINT_VALUE: Final = "true"
DEVICE_TAINT_EFFECT: Final = "NoSchedule"
FOREIGN_TAINT_KEY: Final = "tessera.dev/foreign-instance"
"""On a device, by the agent, beside the first taint: an instance that Tessera did not make is in its way."""
LEAVING_TAINT_KEY: Final = "tessera.dev/leaving"
"""On a device, likewise: its GPU is to have another layout or MIG mode, and it goes with the claim that holds
it."""
UNHEALTHY_TAINT_KEY: Final = "tessera.dev/unhealthy"
"""On a device, likewise: its GPU, or an instance in its way, is broken. The value says how; with the effect
``NoExecute`` the pods that use it are ended."""
CLAIM_FINALIZER: Final = "resource.kubernetes.io/delete-protection"
POD_CLAIM_NAME_ANNOTATION: Final = "resource.kubernetes.io/pod-claim-name"

# Device attributes; CEL reads them as device.attributes["gpu.tessera.dev"].<name>.
ATTRIBUTE_PROFILE: Final = "profile"
ATTRIBUTE_START: Final = "start"
ATTRIBUTE_MEMORY_SLICES: Final = "memorySlices"
ATTRIBUTE_COMPUTE_SLICES: Final = "computeSlices"
ATTRIBUTE_GPU_MEMORY_SLICES: Final = "gpuMemorySlices"
ATTRIBUTE_GPU_UUID: Final = "gpuUUID"
ATTRIBUTE_GPU_INDEX: Final = "gpuIndex"
ATTRIBUTE_MODEL: Final = "model"
ATTRIBUTE_PRODUCT_NAME: Final = "productName"
WHOLE_GPU: Final = "gpu"
"""The profile of a GPU that is one device, because its MIG mode is off."""
CAPACITY_MEMORY: Final = "memory"
CAPACITY_MULTIPROCESSORS: Final = "multiprocessors"

# Counters of a GPU, of which its devices consume.
COUNTER_MEMORY_SLICE: Final = "memory-slice-"
"""The beginning; the number of the memory slice follows."""
COUNTER_COMPUTE_SLICES: Final = "compute-slices"
COUNTER_MEDIA_EXTENSIONS: Final = "media-extensions"
COUNTER_MEDIA_ENGINES: Final = "media-engines"

# Scheduling.
PLACEMENT_GATE: Final = "tessera.dev/placement"
PLACEMENT_MESSAGE_ANNOTATION: Final = "tessera.dev/placement-message"
"""On a ResourceClaim, by the scheduler: JSON ``{"reason": …, "message": …}`` while it cannot be placed."""
GANG_ANNOTATION: Final = "tessera.dev/gang"
GANG_SIZE_ANNOTATION: Final = "tessera.dev/gang-size"
GANG_TIMEOUT_ANNOTATION: Final = "tessera.dev/gang-timeout-seconds"
"""On the pods of a gang: how long it may take to come together before that is an error (default: a flag)."""
NAMESPACE_GATE_LABEL: Final = "tessera.dev/gate"

# Moves.
MOVABLE_ANNOTATION: Final = "tessera.dev/movable"
"""On a pod of an Indexed Job, by its user: ``true`` when it may be evicted to start again elsewhere."""
CHECKPOINT_ANNOTATION: Final = "tessera.dev/checkpoint-interval-seconds"
"""On a movable pod, by its user: how much work it loses at most when it is evicted (default: all of it)."""
MOVE_ANNOTATION: Final = "tessera.dev/move"
"""On a placeholder claim, by the scheduler: whose replacement its slice is held for, and until when."""
ROOM_ANNOTATION: Final = "tessera.dev/room"
"""On a waiting claim, by the scheduler: the place that is opened for it, and who leaves it."""
DEPARTURES_ANNOTATION: Final = "tessera.dev/departures"
"""On the scheduler's Lease, by the scheduler: who was moved or preempted in the last hour, by partition."""

# Labels and annotations of objects that we make.
MANAGED_BY_LABEL: Final = "tessera.dev/managed-by"
MANAGED_BY_VALUE: Final = "tessera"
TRAINING_JOB_LABEL: Final = "tessera.dev/training-job"
WORKLOAD_LABEL: Final = "tessera.dev/workload"
GPU_NODE_LABEL: Final = "tessera.dev/gpu"
"""On a Node, by an administrator: ``true`` where an agent is to run. Read by the chart's DaemonSet."""
SIMULATED_GPUS_LABEL: Final = "tessera.dev/simulated-gpus"
"""On a Node without a kubelet: ``true`` where the fleet is to publish simulated GPUs."""

# What others put on a Node.
MIG_MANAGER_CONFIG_LABEL: Final = "nvidia.com/mig.config"
"""By an administrator, for NVIDIA's mig-manager: which of its configurations the node's GPUs shall have."""

# Where things live and who runs them.
SYSTEM_NAMESPACE: Final = "tessera-system"
OPERATOR_SERVICE_ACCOUNT: Final = "tessera-operator"
SCHEDULER_SERVICE_ACCOUNT: Final = "tessera-scheduler"
AGENT_SERVICE_ACCOUNT: Final = "tessera-agent"
OPERATOR_LEASE: Final = "tessera-operator"
SCHEDULER_LEASE: Final = "tessera-scheduler"
OPERATOR_FIELD_MANAGER: Final = "tessera-operator"
SCHEDULER_FIELD_MANAGER: Final = "tessera-scheduler"
AGENT_FIELD_MANAGER: Final = "tessera-agent"

# The worker's container.
WORKER_CONTAINER: Final = "worker"
WORKER_METRICS_PORT: Final = 9090
WORKER_OUTPUT_DIRECTORY: Final = "/output"
WORKER_LOCAL_ENVIRONMENT_DIRECTORY: Final = "/opt/tessera-worker"
WORKER_TERMINATION_MESSAGE_PATH: Final = "/dev/termination-log"
POD_CLAIM_NAME: Final = "slice"
"""Name of the claim in a worker pod's ``spec.resourceClaims``."""
CLAIM_REQUEST_NAME: Final = "slice"

# What the agent injects into a container (CDI).
ENV_VISIBLE_DEVICES_NVIDIA: Final = "NVIDIA_VISIBLE_DEVICES"
ENV_VISIBLE_DEVICES_CUDA: Final = "CUDA_VISIBLE_DEVICES"
ENV_SLICE_PROFILE: Final = "TESSERA_SLICE_PROFILE"
ENV_SLICE_MEMORY_BYTES: Final = "TESSERA_SLICE_MEMORY_BYTES"
ENV_SLICE_UUID: Final = "TESSERA_SLICE_UUID"
ENV_SIMULATED: Final = "TESSERA_SIMULATED"

PROFILE_PATTERN: Final = r"^[1-9][0-9]?g\.[0-9]+gb(\+me(\.all)?|-me|\+gfx)?$"
"""A MIG profile's name as NVML spells it: 2g.20gb, 1g.10gb+me, 1g.24gb-me, 1g.24gb+me.all, 1g.24gb+gfx."""


def bars_everybody(taint_key: str) -> bool:
    """Whether an agent bars a device with this taint from everybody, whatever they tolerate; not so with the
    first of its taints, which bars kube-scheduler.
    """
    return taint_key.startswith(f"{GROUP}/") and taint_key != DEVICE_TAINT_KEY
