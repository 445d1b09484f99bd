"""Checkpoints: a digest in front of the payload, written atomically, the last two kept.

A node can lose power in the middle of a write, and a volume can lie about a rename; so every file begins with
the SHA-256 of what follows, and a reader that finds a torn file says so and takes the one before. Files lie
in `OUT/checkpoints/<configuration hash>/`: two configurations in one output directory never resume from each
other.
"""

import hashlib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tessera_workloads import durable

MAGIC = b"TESSERA-CKPT-1\n"
_DIGEST_BYTES = 32
_KEPT = 2


@dataclass
class Checkpoint:
    """A run's whole state between two steps. Tensors lie on the CPU.

    `step` counts within `phase`; `ordinal` counts all steps of the run. `phase` is None between two phases,
    when there is no optimiser state. `artefacts` holds the tensors of finished phases, `facts` their JSON.
    """

    configuration: dict[str, Any]
    threads: int
    phase: str | None
    step: int
    ordinal: int
    weights: dict[str, torch.Tensor]
    optimizers: list[dict[str, Any]] = field(default_factory=list)
    artefacts: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: dict[str, Any] = field(default_factory=dict)


def encode(checkpoint: Checkpoint) -> bytes:
    """The file's content: magic, digest, torch's own zip format."""
    buffer = io.BytesIO()
    torch.save({key: getattr(checkpoint, key) for key in checkpoint.__dataclass_fields__}, buffer)
    payload = buffer.getvalue()
    return MAGIC + hashlib.sha256(payload).digest() + payload


def decode(content: bytes) -> Checkpoint:
    """Read a file's content. Only tensors and plain values are unpickled, so a foreign file cannot run code.

    Raises:
        ValueError: when the file is torn, altered or of another format.
    """
    head = len(MAGIC) + _DIGEST_BYTES
    if not content.startswith(MAGIC) or len(content) < head:
        raise ValueError("not a checkpoint, or cut off in its first bytes")
    payload = content[head:]
    if hashlib.sha256(payload).digest() != content[len(MAGIC) : head]:
        raise ValueError("torn: its content does not match its digest")
    return Checkpoint(**torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True))


class CheckpointStore:
    """The checkpoints of one configuration in one output directory."""

    def __init__(self, out: Path, configuration_hash: str) -> None:
        self.directory = out / "checkpoints" / configuration_hash[:16]

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint durably, then drop all but the newest two."""
        self.directory.mkdir(parents=True, exist_ok=True)
        place = f"in-{checkpoint.phase}" if checkpoint.phase else "phase-end"
        path = self.directory / f"{checkpoint.ordinal:09d}-{place}.ckpt"
        durable.write_bytes(path, encode(checkpoint))
        for old in self._paths()[:-_KEPT]:
            old.unlink(missing_ok=True)
        return path

    def load_newest(self, *, report: Callable[[str], None]) -> Checkpoint | None:
        """The newest readable checkpoint; each unreadable one is reported and passed over. None when there is
        none.
        """
        for path in reversed(self._paths()):
            try:
                return decode(path.read_bytes())
            except (OSError, ValueError, RuntimeError) as error:
                report(f"checkpoint {path.name} is unusable ({error}); falling back to the one before it")
        return None

    def clear(self) -> None:
        """Forget every checkpoint of this configuration."""
        for path in self._paths():
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        # "in-…" sorts before "phase-end", so at one ordinal the finished phase is the newer one.
        return sorted(p for p in self.directory.glob("*.ckpt") if re.match(r"\d{9}-", p.name))


def weights_hash(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of the weights: equal hashes mean bit-equal models."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
