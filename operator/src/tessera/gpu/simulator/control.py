"""What happens to a node from outside NVML:

processes start on slices, GPUs fall off the bus, get reset, the node reboots.
"""

from __future__ import annotations

import time
from pathlib import Path

from tessera.gpu.simulator import rules
from tessera.gpu.simulator.state import Process, StateFile, process_start

_MODES = {"none": rules.BARE_METAL, "passthrough": rules.PASSTHROUGH, "vgpu": rules.VGPU}


class NotPossible(RuntimeError):
    """The hardware cannot do this now."""


def _process(pid: int, *, memory_mib: int, busy: float, since: float | None) -> Process:
    started = process_start(pid)
    if started is None:
        raise LookupError(f"no process {pid}")
    if not 0 <= busy <= 1:
        raise ValueError(f"process {pid} cannot keep {busy:g} of its part busy; say 0 to 1")
    began = time.time() if since is None else since
    return Process(pid=pid, started=started, memory_mib=memory_mib, busy=busy, since=began)


def occupy(
    directory: Path,
    *,
    mig_uuid: str,
    pid: int,
    memory_mib: int = 0,
    busy: float = 1.0,
    since: float | None = None,
) -> None:
    """A process starts to use a MIG device and that much of its memory, until the process ends. It keeps the
    share `busy` of the device busy, from now on or from `since` (Unix time, seconds).

    Raises `LookupError` when no such device or process exists, `ValueError` when `busy` is not 0 to 1.
    """
    process = _process(pid, memory_mib=memory_mib, busy=busy, since=since)
    with StateFile(directory).change() as node:
        for compute in (item for gpu in node.gpus for instance in gpu.instances for item in instance.compute):
            if compute.uuid == mig_uuid:
                compute.processes.append(process)
                return
    raise LookupError(f"no MIG device {mig_uuid}")


def hold(directory: Path, *, index: int, pid: int, busy: float = 0.0, since: float | None = None) -> None:
    """A process opens the whole GPU, as a monitoring daemon does: MIG mode cannot change until it ends.

    One that computes keeps the share `busy` of the GPU busy, as in `occupy`. Raises like `occupy`.
    """
    process = _process(pid, memory_mib=0, busy=busy, since=since)
    with StateFile(directory).change() as node:
        node.gpus[index].clients.append(process)


def publish_capabilities(directory: Path) -> Path:
    """Write the node's `/proc/driver/nvidia*` and `/dev/nvidia-caps` below the directory that is returned.

    From then on the files follow the instances.
    """
    state = StateFile(directory)
    state.publish()
    return state.root


def virtualize(directory: Path, *, index: int, mode: str) -> None:
    """Put the GPU into a virtual machine: `passthrough` or `vgpu`; `none` is bare metal.

    Raises `ValueError` for another mode.
    """
    if mode not in _MODES:
        raise ValueError(f"virtualization mode {mode!r}; use {', '.join(_MODES)}")
    with StateFile(directory).change() as node:
        node.gpus[index].virtualization = _MODES[mode]


def lose(directory: Path, *, index: int) -> None:
    """The GPU falls off the bus (Xid 79): every call on it answers GPU_IS_LOST until a reset."""
    with StateFile(directory).change() as node:
        rules.lose(node, node.gpus[index])


def report_xid(directory: Path, *, index: int, xid: int, mig_uuid: str = "") -> None:
    """The driver reports an Xid error: of one MIG device, or of the whole GPU when none is named.

    Raises `LookupError` when the GPU has no such MIG device.
    """
    with StateFile(directory).change() as node:
        gpu = node.gpus[index]
        if not mig_uuid:
            rules.report_xid(node, gpu, xid)
            return
        for instance in gpu.instances:
            for compute in instance.compute:
                if compute.uuid == mig_uuid:
                    rules.report_xid(node, gpu, xid, instance=instance.id, compute=compute.id)
                    return
        raise LookupError(f"no MIG device {mig_uuid} on GPU {index}")


def reset(directory: Path, *, index: int) -> None:
    """Reset one GPU. Raises `NotPossible` inside a virtual machine, which cannot: reboot it."""
    with StateFile(directory).change() as node:
        gpu = node.gpus[index]
        if gpu.virtualization != rules.BARE_METAL:
            raise NotPossible(f"GPU {index} is in a virtual machine and cannot be reset; reboot the machine")
        rules.reset(gpu)


def reload_driver(directory: Path) -> None:
    """Unload and load the kernel modules of the driver. Raises `NotPossible` while a process uses a GPU."""
    with StateFile(directory).change() as node:
        for gpu in node.gpus:
            if rules.in_use(gpu):
                raise NotPossible(f"GPU {gpu.index} is in use; end its processes before unloading the driver")
        node.driver_loads += 1
        for gpu in node.gpus:
            rules.reload_driver(gpu)


def reboot(directory: Path) -> None:
    """Reboot the node."""
    with StateFile(directory).change() as node:
        node.driver_loads += 1
        for gpu in node.gpus:
            rules.reboot(gpu)
