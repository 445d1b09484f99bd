"""The cluster's memory of what it made: written before each thing is made, read backwards to unmake it.

A local cluster consists of processes, mounts, interfaces, firewall rules and control groups, and the command
that makes them can be killed between any two system calls. So every resource is announced here first, on disk
and synced; whatever exists therefore has a line, though a line may stand for something that never came to be.
Undoing works through the lines in reverse, and every undo step is harmless when its thing is not there.

A line names a resource; it does not prove ownership. That comes from marks which the resource itself carries
(an environment variable, a hardware address, a rule comment, a name) and which hold the cluster's random
`uid`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from tessera.local.errors import NotOursError

KILL_AFTER_VARIABLE = "TESSERA_LOCAL_KILL_AFTER_JOURNAL_LINE"
"""For tests of recovery: the process kills itself with SIGKILL right after it has synced a line.

The value says which: a number (the n-th line of this process), or how the line begins (`process/kubelet`).
"""


class Kind(StrEnum):
    """What a line announces."""

    CLUSTER = "cluster"
    PROCESS = "process"
    HOST_DIRECTORY = "host-directory"
    BRIDGE = "bridge"
    FIREWALL_RULE = "firewall-rule"
    CGROUP = "cgroup"


@dataclass(frozen=True)
class Entry:
    """One announced resource: its kind, its name, and what undoing it must know."""

    kind: Kind
    name: str
    details: Mapping[str, str] = field(default_factory=dict)


class Journal:
    """The append-only file `journal.jsonl` of one cluster's state directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kill_after = os.environ.get(KILL_AFTER_VARIABLE, "")
        self._lines = 0

    def exists(self) -> bool:
        """Whether anything was ever announced."""
        return bool(self.entries())

    def announce(self, kind: Kind, name: str, **details: str) -> None:
        """Puts one line on disk (synced) before the caller makes the resource."""
        entry = Entry(kind, name, details)
        if entry in self.entries():
            return  # Announced by an earlier `up` that is being repaired.
        created = not self.path.exists()
        with self.path.open("ab") as journal:
            # A torn last line of a killed writer must not swallow this one.
            if journal.tell() and not self.path.read_bytes().endswith(b"\n"):
                journal.write(b"\n")
            journal.write(json.dumps(asdict(entry)).encode() + b"\n")
            journal.flush()
            os.fsync(journal.fileno())
        if created:
            _sync_directory(self.path.parent)
        self._maybe_kill(entry)

    def entries(self) -> list[Entry]:
        """All complete lines, oldest first.

        A torn last line is left out: its writer died before it could make the resource.
        """
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            try:
                fields = json.loads(line)
            except ValueError:
                continue
            entries.append(Entry(Kind(fields["kind"]), fields["name"], fields["details"]))
        return entries

    def cluster(self) -> Entry | None:
        """The first line: the cluster's own name and uid."""
        return next((entry for entry in self.entries() if entry.kind is Kind.CLUSTER), None)

    def _maybe_kill(self, entry: Entry) -> None:
        self._lines += 1
        line = f"{entry.kind}/{entry.name}"
        if self._kill_after and (self._kill_after == str(self._lines) or line.startswith(self._kill_after)):
            os.kill(os.getpid(), signal.SIGKILL)


def refuse_foreign_directory(directory: Path) -> None:
    """Raises `NotOursError` when `directory` holds something but no journal of ours."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise NotOursError(f"{directory} is not a directory: choose another --state-dir or remove it")
    content = sorted(path.name for path in directory.iterdir())
    if content and Journal(directory / JOURNAL_NAME).cluster() is None and content != [JOURNAL_NAME]:
        raise NotOursError(
            f"{directory} holds {', '.join(content[:5])} but no journal of a local cluster, so it was not "
            "made by `tessera local`: choose another --name or --state-dir, or move it away"
        )


JOURNAL_NAME = "journal.jsonl"


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
