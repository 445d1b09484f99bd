"""NVML's error codes in words: what each means here and what to do about it."""

from __future__ import annotations

HANG = -1
"""Our own code: the call did not return within its time limit, and its process was killed."""

CHILD_DIED = -2
"""Our own code: the process that makes NVML calls ended during the call."""

SIMULATOR_UNUSABLE = -3
"""Our own code: the simulated GPUs cannot be made or read; the fault's detail says why."""

# NVML's codes that callers tell apart (nvml.h).
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
TIMEOUT = 10
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
IN_USE = 19

_CATALOGUE: dict[int, tuple[str, str, str]] = {
    HANG: (
        "HANG",
        "the driver did not answer in time",
        "look for Xid errors in dmesg; reset the GPU or reboot the node",
    ),
    CHILD_DIED: (
        "CHILD_DIED",
        "the process that talks to the driver ended",
        "look at the agent's log and at dmesg",
    ),
    SIMULATOR_UNUSABLE: (
        "SIMULATOR_UNUSABLE",
        "there are no simulated GPUs to use",
        "correct what is named here (--simulate, --simulate-count, or the simulator's files in --state-dir)",
    ),
    1: ("UNINITIALIZED", "NVML was not initialised", "restart the agent"),
    2: (
        "INVALID_ARGUMENT",
        "the driver refuses an argument",
        "check profile, start and GPU against nvidia-smi mig -lgipp",
    ),
    3: (
        "NOT_SUPPORTED",
        "the GPU cannot do this now",
        "enable MIG mode; vGPU guests and older boards have no MIG",
    ),
    4: (
        "NO_PERMISSION",
        "the agent may not do this",
        "run the agent as root or give it the mig/config capability",
    ),
    6: (
        "NOT_FOUND",
        "the object does not exist",
        "it was removed by another program; the agent will look again",
    ),
    7: ("INSUFFICIENT_SIZE", "a buffer was too small", "report this as a bug"),
    9: (
        "DRIVER_NOT_LOADED",
        "the NVIDIA driver is not loaded",
        "install the driver on the node, then modprobe nvidia",
    ),
    10: ("TIMEOUT", "the driver gave up waiting", "try again; reset the GPU when it stays"),
    12: (
        "LIBRARY_NOT_FOUND",
        "libnvidia-ml.so.1 was not found",
        "install the NVIDIA driver, or use --simulate MODEL",
    ),
    13: ("FUNCTION_NOT_FOUND", "the driver is too old for this call", "install driver 525 or newer"),
    15: ("GPU_IS_LOST", "the GPU fell off the bus", "reset the GPU or reboot the node"),
    16: (
        "RESET_REQUIRED",
        "the GPU needs a reset first",
        "reset the GPU with nvidia-smi --gpu-reset, or reboot",
    ),
    18: (
        "LIB_RM_VERSION_MISMATCH",
        "library and kernel driver differ",
        "reboot the node after the driver update",
    ),
    19: ("IN_USE", "a process or an instance still uses it", "stop its processes, or wait until they end"),
    20: ("MEMORY", "out of memory", "free memory on the node"),
    23: (
        "INSUFFICIENT_RESOURCES",
        "the slices are taken",
        "destroy the instances in the way, or choose another start",
    ),
    25: (
        "ARGUMENT_VERSION_MISMATCH",
        "a struct has another version",
        "install a driver that fits nvidia-ml-py",
    ),
    27: ("NOT_READY", "the GPU is not ready yet", "wait; the agent will try again"),
    28: ("GPU_NOT_FOUND", "no GPU was found", "check lspci and the driver's log"),
    999: ("UNKNOWN", "an unknown driver error", "look for Xid errors in dmesg"),
}


def symbol(code: int) -> str:
    """`IN_USE` for 19; `CODE_<n>` when the code is not in the catalogue."""
    return _CATALOGUE[code][0] if code in _CATALOGUE else f"CODE_{code}"


class NVMLFault(Exception):
    """An NVML call failed.

    `code` is NVML's, or one of our own; `target` what it was called on; `detail` says more than the code.
    """

    def __init__(self, code: int, *, call: str, target: str = "", detail: str = "") -> None:
        self.code = code
        self.detail = detail
        self.call = call
        self.target = target
        _, self.meaning, self.remedy = _CATALOGUE.get(
            code, ("", f"NVML error {code}", "look it up in nvml.h")
        )
        on = f" on {target}" if target else ""
        said = f"{self.meaning} ({detail})" if detail else self.meaning
        super().__init__(f"{call}{on}: {symbol(code)}, {said}; remedy: {self.remedy}")

    @property
    def symbol(self) -> str:
        """The code's name, e.g. `IN_USE`."""
        return symbol(self.code)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.code, self.call, self.target, self.detail))


def _rebuild(code: int, call: str, target: str, detail: str) -> NVMLFault:
    return NVMLFault(code, call=call, target=target, detail=detail)
