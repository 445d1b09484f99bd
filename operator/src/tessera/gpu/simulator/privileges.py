"""Who may do what: a process without the capability files of MIG gets NO_PERMISSION.

Switching MIG mode needs root. Creating and destroying instances needs the capability `mig/config`, which
a container can have without being root. Looking at instances needs `mig/config` or `mig/monitor`. What
the board is and which profiles it has, every process may ask (nvml.h: "Requires root user", "Requires
privileged user").

A simulated process is root unless the environment variable `TESSERA_SIMULATOR_PRIVILEGE` says less.
"""

from __future__ import annotations

import os
from enum import IntEnum

ENVIRONMENT = "TESSERA_SIMULATOR_PRIVILEGE"


class Privilege(IntEnum):
    """What a process has; each includes the ones before."""

    NONE = 0
    MONITOR = 1
    CONFIG = 2
    ROOT = 3


_REQUIRED = {
    "nvmlDeviceSetMigMode": Privilege.ROOT,
    "nvmlDeviceCreateGpuInstance": Privilege.CONFIG,
    "nvmlDeviceCreateGpuInstanceWithPlacement": Privilege.CONFIG,
    "nvmlGpuInstanceDestroy": Privilege.CONFIG,
    "nvmlGpuInstanceCreateComputeInstance": Privilege.CONFIG,
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement": Privilege.CONFIG,
    "nvmlComputeInstanceDestroy": Privilege.CONFIG,
    "nvmlDeviceGetGpuInstancePossiblePlacements_v2": Privilege.MONITOR,
    "nvmlDeviceGetGpuInstanceRemainingCapacity": Privilege.MONITOR,
    "nvmlDeviceGetGpuInstances": Privilege.MONITOR,
    "nvmlDeviceGetGpuInstanceById": Privilege.MONITOR,
    "nvmlGpuInstanceGetComputeInstancePossiblePlacements": Privilege.MONITOR,
    "nvmlGpuInstanceGetComputeInstanceRemainingCapacity": Privilege.MONITOR,
    "nvmlGpuInstanceGetComputeInstances": Privilege.MONITOR,
    "nvmlGpuInstanceGetComputeInstanceById": Privilege.MONITOR,
}


def required(symbol: str) -> Privilege:
    """What a process needs for this symbol."""
    return _REQUIRED.get(symbol, Privilege.NONE)


def from_environment() -> Privilege:
    """This process's privilege. Raises `ValueError` naming the variable when it is not one."""
    name = os.environ.get(ENVIRONMENT, "root")
    try:
        return Privilege[name.upper()]
    except KeyError:
        known = ", ".join(privilege.name.lower() for privilege in Privilege)
        raise ValueError(f"{ENVIRONMENT}={name!r} is not a privilege; use one of {known}") from None
