"""What is left when a worker has ended: `result.json` for people and programs, a termination message for
Kubernetes.

The termination message is all that the operator can read of a dead pod, and Kubernetes cuts it at 4096 bytes;
a cut JSON is no JSON, so it is made to fit here: the message is shortened first, then metrics are left out
from the end.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tessera_workloads import durable
from tessera_workloads.errors import Outcome
from tessera_workloads.protocol import Check, Metrics
from tessera_workloads.tables import aligned

TERMINATION_BYTES = 4096
TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes puts the file, unless the container says otherwise."""


@dataclass(frozen=True)
class Evaluated:
    """The metrics, the checks and where they were written."""

    metrics: Metrics
    checks: list[Check]
    result_path: Path
    files: list[Path]

    @property
    def failed_gates(self) -> list[Check]:
        """The checks that decide the exit code and did not pass."""
        return [check for check in self.checks if check.decides and not check.passed]


@dataclass(frozen=True)
class Termination:
    """The ending of a worker, in the words of docs/architecture.md."""

    outcome: Outcome
    reason: str
    message: str
    step: int = 0
    steps: int = 0
    checks_passed: int = 0
    checks_failed: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    result_path: str = ""

    def encode(self) -> bytes:
        """JSON of at most 4096 bytes, always whole."""
        message = self.message if len(self.message) <= 1000 else self.message[:999] + "…"
        metrics = {name: finite(value) for name, value in self.metrics.items()}
        while True:
            text = json.dumps(
                {
                    "outcome": self.outcome,
                    "reason": self.reason,
                    "message": message,
                    "step": self.step,
                    "steps": self.steps,
                    "checks": {"passed": self.checks_passed, "failed": self.checks_failed},
                    "metrics": metrics,
                    "resultPath": self.result_path,
                },
                ensure_ascii=False,
            ).encode()
            if len(text) <= TERMINATION_BYTES:
                return text
            if metrics:
                metrics.popitem()
            else:
                message = message[: len(message) // 2]


def write_termination(termination: Termination, path: Path | None) -> str | None:
    """Write the message where it can be read; returns why it could not be written, if so.

    Without a given path the kubelet's file is used when it exists, and nothing is written outside of a
    container. The file is a bind mount: it is written in place, because it cannot be renamed over.
    """
    target = path or (TERMINATION_LOG if TERMINATION_LOG.is_file() else None)
    if target is None:
        return None
    try:
        target.write_bytes(termination.encode())
    except OSError as error:
        return f"the termination message cannot be written to {target}: {error.strerror}"
    return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; numbers that JSON does not know become null."""
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    durable.write_bytes(path, (text + "\n").encode())


def finite(value: float) -> float | None:
    """The number to six digits, or None for what JSON cannot say."""
    return float(f"{value:.6g}") if math.isfinite(value) else None


def write_result(
    out: Path, name: str, *, metrics: Metrics, checks: list[Check], document: Mapping[str, Any]
) -> Evaluated:
    """Write the files of the metrics into `out`, then the result, which says whether every gate passed."""
    files = []
    for file, content in metrics.files.items():
        path = out / file
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write_bytes(path, content)
        files.append(path)
    evaluated = Evaluated(metrics=metrics, checks=checks, result_path=out / name, files=files)
    write_json(
        evaluated.result_path,
        {
            "outcome": "failed" if evaluated.failed_gates else "complete",
            **document,
            "checks": check_rows(checks),
            "metrics": metrics.values,
            "tables": metrics.tables,
            "files": list(metrics.files),
            "writtenAt": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    return evaluated


def check_rows(checks: Sequence[Check]) -> list[dict[str, Any]]:
    """The checks as JSON objects."""
    return [asdict(check) for check in checks]


def check_table(checks: Sequence[Check]) -> str:
    """The checks as an aligned table: gates first, as they decide."""
    order = {"gate": 0, "control": 1, "report": 2}
    rows = [
        (
            check.kind,
            check.name,
            f"{check.value:.4g}",
            check.bound,
            _verdict(check),
        )
        for check in sorted(checks, key=lambda check: order[check.kind])
    ]
    head = ("kind", "check", "value", "bound", "")
    return aligned(head, rows, left=len(head))


def _verdict(check: Check) -> str:
    if not check.bound:
        return ""
    if check.over == "mean":
        return "over seeds"
    return "pass" if check.passed else "FAIL"


def ensure_writable(out: Path) -> str | None:
    """Make the output directory; returns why it cannot be used, if so."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"--out {out} cannot be made: {error.strerror}"
    return (
        None if os.access(out, os.W_OK | os.X_OK) else f"--out {out} is not writable for user {os.getuid()}"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
