"""What a change of layout was about, on disk, until it is done: so that a kill in the middle can be settled.

The journal names for each GPU the old and the new layout, in full. It is written before the first change and
removed after the last check, so: no journal, no unfinished change. A lock beside it keeps two commands from
changing the same GPUs at once; the kernel drops the lock when its process dies.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tessera.gpu.lock_file import exclusive
from tessera.relayout.errors import JournalInTheWay

VERSION = 1


@dataclass(frozen=True, slots=True)
class Placed:
    """An instance of a layout, with all that creating it takes. `whole`: with its compute instance."""

    profile: str
    profile_id: int
    start: int
    size: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Side:
    """MIG mode and instances of a GPU, before or after the change."""

    mig: bool
    instances: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class Entry:
    """One GPU's change."""

    gpu_uuid: str
    index: int
    old: Side
    new: Side


class Journal:
    """The journal of one machine, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "relayout.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock; raises `JournalInTheWay` at once when another command has it."""
        with ExitStack() as lock:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                lock.enter_context(exclusive(self.directory / "relayout.lock", wait=False))
            except BlockingIOError:
                raise JournalInTheWay(
                    "the GPUs are being changed",
                    "another tessera gpu command is at work",
                    "Wait until it ends",
                ) from None
            except OSError as error:
                raise self._unusable(error) from error
            yield

    def read(self) -> tuple[Entry, ...] | None:
        """The unfinished change, or None. Raises `JournalInTheWay` when the file cannot be read."""
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
            data = document["entries"]
            if document["version"] != VERSION or document["checksum"] != _checksum(data):
                raise ValueError("version or checksum is wrong")
            return tuple(_entry(item) for item in data)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise JournalInTheWay(
                f"journal {self.path} cannot be used",
                f"it is damaged ({error})",
                "Compare the GPUs with what they should have (tessera gpu list), then remove the file",
            ) from error

    def write(self, entries: tuple[Entry, ...]) -> None:
        """Store the change; it is on disk when this returns. Raises `JournalInTheWay`."""
        data = [asdict(entry) for entry in entries]
        text = json.dumps({"version": VERSION, "checksum": _checksum(data), "entries": data}, indent=1)
        temporary = self.path.with_suffix(".tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path)
            self._sync_directory()
        except OSError as error:
            raise self._unusable(error) from error

    def clear(self) -> None:
        """The change is done. Raises `JournalInTheWay`."""
        try:
            self.path.unlink(missing_ok=True)
            self._sync_directory()
        except OSError as error:
            raise self._unusable(error) from error

    def _sync_directory(self) -> None:
        descriptor = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _unusable(self, error: OSError) -> JournalInTheWay:
        return JournalInTheWay(
            f"journal {self.path} cannot be used",
            error.strerror or str(error),
            "Make its directory writable, or name another with --state DIR",
        )


def _checksum(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _entry(item: dict[str, Any]) -> Entry:
    def side(data: dict[str, Any]) -> Side:
        return Side(mig=data["mig"], instances=tuple(Placed(**placed) for placed in data["instances"]))

    return Entry(gpu_uuid=item["gpu_uuid"], index=item["index"], old=side(item["old"]), new=side(item["new"]))
