"""How much harm an Xid tells of, and what the driver says a GPU needs before it can be used again.

An Xid is an error that the NVIDIA driver reports by number. Sources, as of November 2026:

* [C] NVIDIA's Xid catalogue (docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html), column
  "Immediate Action": RESTART_APP ("app") and IGNORE ("ignore") do no harm to the GPU, RESET_GPU and
  RESTART_BM (restart the machine) do.
* [P] NVIDIA's device plugin (`internal/rm/health.go`) and DRA driver up to 0.4 (`device_health.go`) take 13,
  31, 43, 45, 68 and 109 for errors of the application; every other Xid makes the device unhealthy there.
* [R] NVML's "GPU recovery action" (`NVML_FI_DEV_GET_GPU_RECOVERY_ACTION`). NVIDIA's DRA driver 0.5 judges by
  it alone. It is a state and no event, so it is known after a restart too, and is over when it says so.

| Xids | harm | source |
|---|---|---|
| 8, 11, 13, 25, 31, 32, 39-41, 60, 68-72, 75-77, 80, 82-86, 88, 89, 96-105, 126-135, 139 | none | C (app) |
| 14, 37, 38, 43, 44, 63, 66, 67, 92, 93, 106-108, 121, 137, 141, 157, 160, 161 | none | C (ignore) |
| 45 (comes after others), 154 (the recovery action has changed: it is read) | none | P; C |
| 109 | none | P; C has RESET_GPU, which a driver that needs it reports as [R] |
| 94: contained memory error | the GPU instance that it names | C (app): the rest of the GPU goes on |
| 46, 48, 62, 64, 79, 95, 110, 119, 120, 136, 140, 143, 151, 155, 156, 158 | GPU, at once | C: RESET_GPU, … |
| any other | the GPU instance that it names; else the whole GPU, for new work | by caution, as in P |
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import pynvml


class Harm(IntEnum):
    """What may not be used any more, the worst last."""

    NONE = 0
    """The application failed; the GPU is as good as before."""
    INSTANCE = 1
    """One GPU instance: nothing new is to start there."""
    DRAIN = 2
    """The GPU: what runs may go on, nothing new is to start, then it is reset."""
    RESET = 3
    """The GPU: nothing can run before it is reset."""


FELL_OFF_THE_BUS: Final = 79
"""Xid of a GPU that does not answer any more."""

_RESTART_APP: Final = {
    *(8, 11, 13, 25, 31, 32, 39, 40, 41, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86, 88, 89),
    *range(96, 106),
    *range(126, 136),
    139,
}
_IGNORE: Final = {14, 37, 38, 43, 44, 63, 66, 67, 92, 93, 106, 107, 108, 121, 137, 141, 157, 160, 161}
_HARMLESS: Final = _RESTART_APP | _IGNORE | {45, 109, 154}
_CONTAINED: Final = {94}
_RESET: Final = {46, 48, 62, 64, FELL_OFF_THE_BUS, 95, 110, 119, 120, 136, 140, 143, 151, 155, 156, 158}

_ACTIONS: Final = {
    pynvml.NVML_GPU_RECOVERY_ACTION_NONE: ("none", Harm.NONE),
    pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET: ("reset the GPU", Harm.RESET),
    pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT: ("reboot the node", Harm.RESET),
    # Slices have no peer-to-peer traffic and no IMEX domain: there is nothing to drain or to recover.
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P: ("drain peer-to-peer traffic", Harm.NONE),
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET: ("drain the GPU, then reset it", Harm.DRAIN),
    pynvml.NVML_GPU_RECOVERY_ACTION_RECOVER_IMEX_DOMAIN: ("recover the IMEX domain", Harm.NONE),
    pynvml.NVML_GPU_RECOVERY_ACTION_BUS_RESET: ("reset the GPU's PCIe bus", Harm.RESET),
    pynvml.NVML_GPU_RECOVERY_ACTION_SYSTEM_REBOOT: ("reboot the system", Harm.RESET),
}


def harm_of_xid(xid: int, *, of_instance: bool) -> Harm:
    """What the Xid means by the table above. `of_instance`: the driver named a GPU instance with it."""
    if xid in _HARMLESS:
        return Harm.NONE
    if xid in _RESET:
        return Harm.RESET
    if xid in _CONTAINED and not of_instance:
        return Harm.NONE
    return Harm.INSTANCE if of_instance else Harm.DRAIN


def harm_of_action(action: int) -> Harm:
    """What NVML's GPU recovery action means; one that this version does not know is drained."""
    return _ACTIONS[action][1] if action in _ACTIONS else Harm.DRAIN


def words_of_action(action: int) -> str:
    """What to do, in words."""
    return _ACTIONS[action][0] if action in _ACTIONS else f"NVML's recovery action {action}"
