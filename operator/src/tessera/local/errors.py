"""What can go wrong with a local cluster, told to the person at the terminal.

Every error of `tessera.local` is a `LocalClusterError` whose message names the object, the reason and the
remedy; the command line prints the message and exits 1, without a traceback.
"""

from __future__ import annotations

from pathlib import Path

from tessera.api.errors import TesseraError


class LocalClusterError(TesseraError):
    """A local cluster could not do what was asked; the message says what to do."""


class MissingToolError(LocalClusterError):
    """A program that has to come from the machine (Go, runc, iptables, ...) is not there."""


class NotOursError(LocalClusterError):
    """Something is in the way that this cluster did not create, and will therefore not touch."""


class ProcessFailedError(LocalClusterError):
    """A process of the cluster ended or did not become ready.

    The message quotes the last lines of its log, because that is where the reason stands.
    """

    def __init__(self, *, process: str, reason: str, log: Path) -> None:
        self.process = process
        self.log = log
        super().__init__(f"{process}: {reason}; the end of {log}:\n{last_lines(log)}")


def last_lines(path: Path, *, count: int = 15, window_bytes: int = 16_384) -> str:
    """The last `count` lines of a log, indented; of a huge log only the last `window_bytes` are read."""
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(0, log.tell() - window_bytes))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return "  (no log was written)"
    lines = text.splitlines()[-count:]
    return "\n".join(f"  {line[:400]}" for line in lines) or "  (the log is empty)"
