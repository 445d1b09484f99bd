"""The capability files of MIG: which device node a container needs for a slice.

The driver shows `/proc/driver/nvidia-caps/mig-minors`, a fixed list of every possible instance with its
minor number, and below `/proc/driver/nvidia/capabilities` one file per instance that exists, which names
its device node `/dev/nvidia-caps/nvidia-cap<minor>`. A container that uses a slice needs the nodes of its
GPU instance and of its compute instance.

Minor numbers: 1 is `mig/config`, 2 is `mig/monitor`; then each GPU has 135 in a row, each of its 15 GPU
instance ids 9: its own and one for each of 8 compute instance ids.

The simulator writes the same tree below a directory of its own (`publish`), with plain files in place of
device nodes, and from then on keeps it in step with the instances. Beside it stand the driver's file of each
GPU, which names its UUID and its own minor number, and `/proc/devices` with the major numbers.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tessera.gpu.profiles import board

if TYPE_CHECKING:
    from tessera.gpu.simulator.state import Node, SimulatedGPU

CONFIG_MINOR = 1
MONITOR_MINOR = 2
GPUS = 32
GPU_INSTANCES = 15
COMPUTE_INSTANCES = 8
_OWNER_READS = 0o400
_ALL_READ = 0o444
_FIRST = 3
_CAPABILITIES = "proc/driver/nvidia/capabilities"
_MINORS = "proc/driver/nvidia-caps/mig-minors"
_NODES = "dev/nvidia-caps"
_GPUS = "proc/driver/nvidia/gpus"
_DEVICES = """Character devices:
  1 mem
195 nvidia
234 nvidia-caps
237 nvidia-caps-imex-channels
511 nvidia-uvm

Block devices:
  8 sd
"""


def minor(*, gpu: int, gpu_instance: int, compute_instance: int | None = None) -> int:
    """Minor number of a GPU instance's device node, or of one of its compute instances'.

    `gpu` is the GPU's own minor number. Raises `ValueError` for ids that the driver cannot give.
    """
    inside = -1 if compute_instance is None else compute_instance
    if not (0 <= gpu < GPUS and 0 <= gpu_instance < GPU_INSTANCES and -1 <= inside < COMPUTE_INSTANCES):
        raise ValueError(f"no capability for GPU {gpu}, GPU instance {gpu_instance}, compute {inside}")
    per_instance = 1 + COMPUTE_INSTANCES
    return _FIRST + gpu * GPU_INSTANCES * per_instance + gpu_instance * per_instance + 1 + inside


@cache
def minors_file() -> str:
    """`/proc/driver/nvidia-caps/mig-minors`: the same on every node, whatever exists."""
    lines = [f"config {CONFIG_MINOR}", f"monitor {MONITOR_MINOR}"]
    for gpu in range(GPUS):
        for instance in range(GPU_INSTANCES):
            path = f"gpu{gpu}/gi{instance}"
            lines.append(f"{path}/access {minor(gpu=gpu, gpu_instance=instance)}")
            lines += [
                f"{path}/ci{compute}/access {minor(gpu=gpu, gpu_instance=instance, compute_instance=compute)}"
                for compute in range(COMPUTE_INSTANCES)
            ]
    return "\n".join(lines) + "\n"


def capabilities(node: Node) -> dict[str, tuple[int, int]]:
    """(minor, mode) of every capability file that exists now, by its path below `capabilities`."""
    found = {"mig/config": (CONFIG_MINOR, _OWNER_READS), "mig/monitor": (MONITOR_MINOR, _ALL_READ)}
    for gpu in node.gpus:
        for instance in gpu.instances if gpu.index < GPUS else ():
            path = f"gpu{gpu.index}/mig/gi{instance.id}"
            found[f"{path}/access"] = (minor(gpu=gpu.index, gpu_instance=instance.id), _ALL_READ)
            for compute in instance.compute:
                number = minor(gpu=gpu.index, gpu_instance=instance.id, compute_instance=compute.id)
                found[f"{path}/ci{compute.id}/access"] = (number, _ALL_READ)
    return found


def published(root: Path) -> bool:
    """Whether the tree is kept below that directory."""
    return (root / _CAPABILITIES).is_dir()


def publish(root: Path, node: Node) -> None:
    """Bring the tree below `root` in step with the node: write what is missing, remove what is gone."""
    _write(root / "proc/devices", _DEVICES, _ALL_READ)
    _write(root / _MINORS, minors_file(), _ALL_READ)
    for gpu in node.gpus:
        _write(root / _GPUS / gpu.pci_bus_id[4:].lower() / "information", _information(gpu), _ALL_READ)
    wanted = capabilities(node)
    top = root / _CAPABILITIES
    nodes = root / _NODES
    for path, (number, mode) in wanted.items():
        text = f"DeviceFileMinor: {number}\nDeviceFileMode: {mode}\nDeviceFileModify: 1\n"
        _write(top / path, text, mode)
        _write(nodes / f"nvidia-cap{number}", "", mode)
    _prune(top, {top / path for path in wanted})
    kept = {f"nvidia-cap{number}" for number, _ in wanted.values()}
    for file in nodes.iterdir():
        if file.name not in kept:
            file.unlink()


def _information(gpu: SimulatedGPU) -> str:
    """What the driver tells of a GPU; the columns are filled with tabs, as it does."""
    return (
        f"Model: \t\t {board(gpu.model).product}\nGPU UUID: \t {gpu.uuid}\nBus Type: \t PCIe\n"
        f"Bus Location: \t {gpu.pci_bus_id[4:].lower()}\nDevice Minor: \t {gpu.index}\n"
    )


def _write(file: Path, text: str, mode: int) -> None:
    """Write the file unless it is as wanted: a killed writer may have left a part of it, or another GPU."""
    if file.exists():
        if (file.read_text(encoding="ascii"), file.stat().st_mode & 0o777) == (text, mode):
            return
        file.unlink()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="ascii")
    file.chmod(mode)


def _prune(top: Path, wanted: set[Path]) -> None:
    """Remove the directories of instances that are gone."""
    kept = {parent for file in wanted for parent in file.parents}
    for directory in sorted((item for item in top.rglob("*") if item.is_dir()), reverse=True):
        if directory not in kept:
            shutil.rmtree(directory)
