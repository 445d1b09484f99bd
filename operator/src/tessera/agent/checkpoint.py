"""The agent's memory on disk: which claims hold which slices, and which slices are warm.

NVML knows what exists but not for whom; this file knows. It is written before the first change that a
claim needs (the *intent*) and again when the claim is ready, each time as a whole: new file, fsync,
rename, fsync of the directory. A checksum tells a damaged file from a good one. Damage is no end of the
world: `recovery` rebuilds the ledger from the CDI specs, NVML and the API.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tessera.agent.claims import ClaimKey
from tessera.api.errors import TesseraError
from tessera.api.names import WHOLE_GPU

VERSION = 1


class DamagedCheckpoint(RuntimeError):
    """The file is torn, or was not written by this program."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"checkpoint {path} {why}")


class UnreadableCheckpoint(TesseraError):
    """The file may be good, but it cannot be read: nothing is rebuilt over it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"checkpoint {path} cannot be read",
            why,
            "Make it readable for the agent (--state-dir), or remove it: the agent then rebuilds it",
        )


@dataclass(frozen=True, slots=True)
class Slice:
    """An instance that we made: GPU instance plus compute instance; start and size in memory slices. Or a GPU
    that is not cut (`whole`).
    """

    gpu_uuid: str
    profile: str
    profile_id: int
    start: int
    size: int
    gpu_instance_id: int
    compute_instance_id: int
    uuid: str

    @property
    def is_whole_gpu(self) -> bool:
        """Whether it is a GPU whose MIG mode is off: nothing was made for it."""
        return self.profile == WHOLE_GPU


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """One device of a claim. `slice` is None until the instance exists; `reused` when it was there before."""

    request: str
    device: str
    gpu_uuid: str
    profile: str
    profile_id: int
    start: int
    size: int
    memory_bytes: int
    reused: bool = False
    slice: Slice | None = None


class Phase(StrEnum):
    """How far a claim is."""

    PREPARING = "Preparing"
    PREPARED = "Prepared"


@dataclass(frozen=True, slots=True)
class ClaimRecord:
    """A claim's devices. While Preparing, `removed` are the warm slices that make room for it."""

    key: ClaimKey
    phase: Phase
    devices: tuple[DeviceRecord, ...]
    removed: tuple[Slice, ...] = ()

    @property
    def slices(self) -> tuple[Slice, ...]:
        """The slices that exist for it."""
        return tuple(device.slice for device in self.devices if device.slice is not None)


@dataclass(slots=True)
class Ledger:
    """All claims by UID, and all warm slices by MIG UUID."""

    claims: dict[str, ClaimRecord] = field(default_factory=dict)
    warm: dict[str, Slice] = field(default_factory=dict)

    def holder(self, uuid: str) -> ClaimKey | None:
        """The claim that holds the slice, or the GPU as a whole, with that UUID."""
        for record in self.claims.values():
            if any(device.slice is not None and device.slice.uuid == uuid for device in record.devices):
                return record.key
        return None


def _ledger(data: dict[str, Any]) -> Ledger:
    def device(item: dict[str, Any]) -> DeviceRecord:
        return DeviceRecord(**{**item, "slice": Slice(**item["slice"]) if item["slice"] else None})

    claims = [
        ClaimRecord(
            key=ClaimKey(**item["key"]),
            phase=Phase(item["phase"]),
            devices=tuple(device(entry) for entry in item["devices"]),
            removed=tuple(Slice(**entry) for entry in item["removed"]),
        )
        for item in data["claims"]
    ]
    warm = [Slice(**item) for item in data["warm"]]
    return Ledger(
        claims={record.key.uid: record for record in claims}, warm={item.uuid: item for item in warm}
    )


def _checksum(data: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Replace a file so that a crash leaves the old or the new content, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


class CheckpointFile:
    """The ledger on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Ledger:
        """The ledger; an empty one when there is no file yet.

        Raises `DamagedCheckpoint`, and `UnreadableCheckpoint` when the disk or its permissions refuse.
        """
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Ledger()
        except IsADirectoryError:
            raise DamagedCheckpoint(self.path, "is a directory") from None
        except OSError as error:
            raise UnreadableCheckpoint(self.path, error.strerror or str(error)) from error
        except ValueError as error:
            raise DamagedCheckpoint(self.path, f"is torn ({error})") from error
        if not isinstance(document, dict) or not isinstance(document.get("data"), dict):
            raise DamagedCheckpoint(self.path, "has another shape")
        data = document["data"]
        if document.get("checksum") != _checksum(data):
            raise DamagedCheckpoint(self.path, "does not match its checksum")
        if data.get("version") != VERSION:
            raise DamagedCheckpoint(
                self.path, f"has version {data.get('version')!r}, this agent writes {VERSION}"
            )
        return _ledger(data)

    def store(self, ledger: Ledger) -> None:
        """Write the ledger; it is on disk when this returns."""
        data = {
            "version": VERSION,
            "claims": [asdict(record) for record in ledger.claims.values()],
            "warm": [asdict(item) for item in ledger.warm.values()],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps({"checksum": _checksum(data), "data": data}, indent=1))

    def set_aside(self) -> Path | None:
        """Keep what stands there for inspection under another name too; None when nothing stands there.

        A damaged file also keeps its own name until `store` replaces it: an agent that starts in between
        must find the damage again, not an empty ledger. Raises `OSError`.
        """
        aside = self.path.with_suffix(".damaged.json")
        if self.path.is_dir():
            self.path.replace(aside)
        elif self.path.exists():
            aside.unlink(missing_ok=True)
            os.link(self.path, aside)
        else:
            return None
        return aside
