"""Where a cluster keeps its files, and who it is.

Everything a cluster writes lies under one directory, `<state-dir>/<name>`. Its identity is the name plus a
random uid, made when the directory is, so that nothing of a cluster that once had the same name is mistaken
for ours.
"""

from __future__ import annotations

import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tessera.local.errors import LocalClusterError
from tessera.local.journal import JOURNAL_NAME, Journal, Kind, refuse_foreign_directory
from tessera.local.progress import Progress

DEFAULT_NAME = "tessera"
NAME_PATTERN = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")


def default_state_directory() -> Path:
    """`$XDG_STATE_HOME/tessera/clusters` or `~/.local/state/tessera/clusters`: one directory per cluster
    in it.
    """
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "tessera" / "clusters"


@dataclass(frozen=True)
class Identity:
    """Which cluster something belongs to; `mark` is what its processes carry in their environment."""

    name: str
    uid: str

    @property
    def mark(self) -> str:
        """The value of TESSERA_CLUSTER in the environment of every process of the cluster."""
        return f"{self.name}:{self.uid}"

    @property
    def short(self) -> str:
        """A name that no other cluster has and that is fit for control groups and networks."""
        return f"tessera-{self.name}-{self.uid[:8]}"


@dataclass(frozen=True)
class ClusterState:
    """The state directory of one cluster, with the paths that several modules need."""

    directory: Path

    @classmethod
    def of(cls, name: str, *, state_dir: Path | None = None) -> ClusterState:
        """The state of the cluster called `name`; nothing is read or made.

        Raises:
            LocalClusterError: the name is not fit for a node name.
        """
        if not NAME_PATTERN.fullmatch(name):
            raise LocalClusterError(
                f"cluster name {name!r} is not usable: take at most 32 lower-case letters, digits and dashes"
            )
        return cls((state_dir or default_state_directory()).absolute() / name)

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.directory.name

    @property
    def journal(self) -> Journal:
        """The cluster's journal."""
        return Journal(self.directory / JOURNAL_NAME)

    @property
    def logs(self) -> Path:
        """One `<process>.log` per process."""
        return self.directory / "logs"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.directory / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.directory / "kubeconfig"

    @property
    def output(self) -> Path:
        """What volumes of the storage class `tessera-local` hold, on this machine."""
        return self.directory / "output"

    def identity(self) -> Identity | None:
        """Who the cluster is, or None when there is none."""
        entry = self.journal.cluster()
        return Identity(entry.name, entry.details["uid"]) if entry else None

    def create(self, journal: Journal) -> Identity:
        """The identity, made (with the directory) on the first call.

        Raises:
            NotOursError: the directory is somebody else's.
        """
        refuse_foreign_directory(self.directory)
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        identity = self.identity()
        if identity is None:
            identity = Identity(self.name, uuid.uuid4().hex)
            journal.announce(Kind.CLUSTER, identity.name, uid=identity.uid)
        self.logs.mkdir(exist_ok=True)
        self.pki.mkdir(mode=0o700, exist_ok=True)
        return identity

    @contextmanager
    def exclusively(self, *, progress: Progress) -> Iterator[None]:
        """Makes commands on the same cluster wait for each other.

        The directory, which must exist, is its own lock file; the kernel drops the lock when its holder dies.

        Raises:
            LocalClusterError: the command that was waited for removed the cluster.
        """
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with progress.step(f"waiting for another command on cluster {self.name}"):
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink == 0:
                raise LocalClusterError(f"cluster {self.name} was removed meanwhile: run the command again")
            yield
        finally:
            os.close(descriptor)


def existing_clusters(state_dir: Path | None = None) -> Iterator[ClusterState]:
    """All clusters of a state directory, running or not."""
    root = state_dir or default_state_directory()
    if root.is_dir():
        for path in sorted(root.iterdir()):
            if (path / JOURNAL_NAME).exists():
                yield ClusterState(path.absolute())
