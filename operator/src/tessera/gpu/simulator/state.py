"""The simulated node's state: one JSON file, changed under a lock, replaced atomically.

The file plays the kernel driver's memory. Every process of the node reads and changes it; `flock` on a
neighbour file makes one change at a time; write + fsync + rename means that a process killed at any point
leaves either the old or the new state. The lock dies with its process.
"""

from __future__ import annotations

import json
import logging
import os
import uuid as uuids
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tessera.gpu.lock_file import exclusive
from tessera.gpu.profiles import board
from tessera.gpu.simulator import capabilities

log = logging.getLogger(__name__)

VERSION = 1
_NAMESPACE = uuids.UUID("6f1e0b4e-5a0c-4a51-9f4e-0d5b0c1a7e55")


class DamagedState(RuntimeError):
    """The state file is not what this simulator wrote."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"simulator state {path} {why}; delete the file to start with fresh GPUs")


@dataclass(slots=True)
class Process:
    """A process that holds something.

    `started` guards against a recycled pid (clock ticks, /proc/PID/stat). `busy` is the share of what it
    holds that it keeps busy, 0 to 1, from `since` on (Unix time, seconds).
    """

    pid: int
    started: int
    memory_mib: int = 0
    busy: float = 0.0
    since: float = 0.0

    def alive(self) -> bool:
        """Whether that very process still runs."""
        return process_start(self.pid) == self.started


@dataclass(slots=True)
class Compute:
    """A compute instance.

    `slot` is its place in the GPU's list of MIG devices; start and size in compute slices.
    """

    id: int
    profile_id: int
    start: int
    size: int
    uuid: str
    serial: int
    slot: int
    processes: list[Process] = field(default_factory=list)


@dataclass(slots=True)
class Instance:
    """A GPU instance; start and size in memory slices."""

    id: int
    profile_id: int
    start: int
    size: int
    serial: int
    compute: list[Compute] = field(default_factory=list)


@dataclass(slots=True)
class SimulatedGPU:
    """A GPU. `serial` numbers every object of the node once, and is what handles carry.

    `virtualization` is NVML's mode: 0 bare metal, 1 passed through to a VM, 2 a vGPU inside a VM;
    `recovery_action` NVML's number of what it needs before it can be used again, 0 for nothing.
    """

    index: int
    uuid: str
    model: str
    serial: int
    mig_current: bool = False
    mig_pending: bool = False
    lost: bool = False
    recovery_action: int = 0
    virtualization: int = 0
    instances: list[Instance] = field(default_factory=list)
    clients: list[Process] = field(default_factory=list)

    @property
    def pci_bus(self) -> int:
        """The bus that it is on."""
        return 0x18 + 0x11 * self.index

    @property
    def pci_bus_id(self) -> str:
        """Domain, bus, device and function, as nvidia-smi prints them."""
        return f"00000000:{self.pci_bus:02X}:00.0"


@dataclass(slots=True)
class Event:
    """An Xid error that the driver reported; `number` only grows. Ids of -1: it concerns the whole GPU."""

    number: int
    gpu: int
    xid: int
    gpu_instance: int = -1
    compute_instance: int = -1


@dataclass(slots=True)
class Node:
    """A whole node. `serials` is the last serial given; it only grows, so a serial is never used twice.

    `driver_loads` counts how often the driver was loaded again, also for other boards: it starts its energy
    counters at 0.
    """

    seed: str
    gpus: list[SimulatedGPU]
    serials: int
    driver_version: str = "580.65.06"
    nvml_version: str = "13.580.65.06"
    cuda_version: int = 13000
    version: int = VERSION
    events: list[Event] = field(default_factory=list)
    driver_loads: int = 0

    def next_serial(self) -> int:
        """A number that no object of this node ever had."""
        self.serials += 1
        return self.serials

    def uuid_for(self, prefix: str, serial: int) -> str:
        """A UUID fixed by the node's seed and the object's serial."""
        return f"{prefix}-{uuids.uuid5(_NAMESPACE, f'{self.seed}/{serial}')}"


def process_start(pid: int) -> int | None:
    """When that process started, in clock ticks since boot; None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def new_node(*, model: str, count: int, seed: str) -> Node:
    """A node with `count` idle GPUs of that model; MIG is on only where a reboot keeps it.

    Raises `UnknownModel`.
    """

    persisted = board(model).architecture == "ampere"  # its InfoROM keeps MIG mode; later GPUs start without
    node = Node(seed=seed, gpus=[], serials=0)
    for index in range(count):
        serial = node.next_serial()
        gpu = SimulatedGPU(
            index=index,
            uuid=node.uuid_for("GPU", serial),
            model=model,
            serial=serial,
            mig_current=persisted,
            mig_pending=persisted,
        )
        node.gpus.append(gpu)
    return node


def _node(data: dict[str, Any]) -> Node:
    gpus = [
        SimulatedGPU(
            **{
                **gpu,
                "clients": [Process(**process) for process in gpu["clients"]],
                "instances": [
                    Instance(
                        **{
                            **instance,
                            "compute": [
                                Compute(
                                    **{
                                        **compute,
                                        "processes": [Process(**item) for item in compute["processes"]],
                                    }
                                )
                                for compute in instance["compute"]
                            ],
                        }
                    )
                    for instance in gpu["instances"]
                ],
            }
        )
        for gpu in data["gpus"]
    ]
    events = [Event(**event) for event in data.get("events", [])]
    return Node(**{**data, "gpus": gpus, "events": events})


class StateFile:
    """One node's state on disk."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "gpus.json"
        self._lock_path = directory / "gpus.lock"
        self._cached: tuple[tuple[int, int, int], Node] | None = None

    def ensure(self, *, model: str, count: int, seed: str) -> None:
        """Make the node when it does not exist. Other hardware than asked for is replaced: a board swap."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with exclusive(self._lock_path):
            loads = 0
            if self.path.exists():
                node = self._load()
                if [gpu.model for gpu in node.gpus] == [model] * count:
                    self._follow(node)
                    return
                log.warning("simulated hardware changes to %d x %s; all instances are gone", count, model)
                loads = node.driver_loads + 1
            made = new_node(model=model, count=count, seed=seed)
            made.driver_loads = loads
            self._store(made)

    def read(self) -> Node:
        """The state now. Treat it as read-only: it is cached until the file changes."""
        status = self.path.stat()
        signature = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._cached is None or self._cached[0] != signature:
            self._cached = (signature, self._load())
        return self._cached[1]

    @contextmanager
    def change(self) -> Iterator[Node]:
        """The state for one change; stored when the block ends without an exception."""
        with exclusive(self._lock_path):
            node = self._load()
            yield node
            self._store(node)

    @property
    def root(self) -> Path:
        """Where this node's `/proc` and `/dev` are, once `publish` has made them."""
        return self.directory / "root"

    def publish(self) -> None:
        """Write the capability files below `root`; from now on they follow the instances."""
        with exclusive(self._lock_path):
            capabilities.publish(self.root, self._load())

    def _follow(self, node: Node) -> None:
        """A process killed before this leaves old files; the next change or start brings them in step."""
        if capabilities.published(self.root):
            capabilities.publish(self.root, node)

    def _load(self) -> Node:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise DamagedState(self.path, f"is not JSON ({error})") from error
        if not isinstance(data, dict) or data.get("version") != VERSION:
            raise DamagedState(self.path, f"has another version than {VERSION}")
        try:
            return _node(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise DamagedState(self.path, f"has another shape ({error!r})") from error

    def _store(self, node: Node) -> None:
        # One name for all: the lock is held, and what a killed writer left is written over.
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(asdict(node)))  # in C, unlike `json.dump` and any indentation
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        directory = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self._follow(node)
