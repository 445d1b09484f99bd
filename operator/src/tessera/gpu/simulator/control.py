"""What happens to a node from outside NVML:

processes start on slices, GPUs fall off the bus, get reset, the node reboots.
"""

from __future__ import annotations

from pathlib import Path

from tessera.gpu.simulator import rules
from tessera.gpu.simulator.state import Process, StateFile, process_start


def occupy(directory: Path, *, mig_uuid: str, pid: int) -> None:
    """A process starts to use a MIG device: its instance is in use until the process ends.

    Raises `LookupError` when no such device or process exists.
    """
    started = process_start(pid)
    if started is None:
        raise LookupError(f"no process {pid}")
    with StateFile(directory).change() as node:
        for compute in (item for gpu in node.gpus for instance in gpu.instances for item in instance.compute):
            if compute.uuid == mig_uuid:
                compute.processes.append(Process(pid=pid, started=started))
                return
    raise LookupError(f"no MIG device {mig_uuid}")


def hold(directory: Path, *, index: int, pid: int) -> None:
    """A process opens the whole GPU, as a monitoring daemon does: MIG mode cannot change until it ends."""
    started = process_start(pid)
    if started is None:
        raise LookupError(f"no process {pid}")
    with StateFile(directory).change() as node:
        node.gpus[index].clients.append(Process(pid=pid, started=started))


def lose(directory: Path, *, index: int) -> None:
    """The GPU falls off the bus: every call on it answers GPU_IS_LOST until a reset."""
    with StateFile(directory).change() as node:
        node.gpus[index].lost = True


def reset(directory: Path, *, index: int) -> None:
    """Reset one GPU."""
    with StateFile(directory).change() as node:
        rules.reset(node.gpus[index])


def reboot(directory: Path) -> None:
    """Reboot the node."""
    with StateFile(directory).change() as node:
        for gpu in node.gpus:
            rules.reboot(gpu)
