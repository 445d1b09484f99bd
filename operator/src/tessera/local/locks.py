"""One process at a time: a lock file that the kernel releases when its holder dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tessera.local.progress import Progress


@contextmanager
def exclusive(path: Path, *, waiting_for: str, progress: Progress) -> Iterator[None]:
    """Holds an exclusive lock on `path`, whose directory is made; says what it waits for, if it must."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step(f"waiting for {waiting_for}"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
