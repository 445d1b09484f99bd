"""The trace as plain values: nodes and pods read from the CSV files of the openb trace.

`openb` is the name of one production GPU cluster of Alibaba in its 2023 trace: a list of nodes, and lists
of pods that differ in their mix (more GPU sharing, more multi-GPU pods, GPU models asked for by name, more
or fewer CPU-only pods). Some lists have columns that others lack; only those that the placement needs are
read.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from tessera.api.errors import TesseraError

MILLI = 1000
"""One whole GPU in milli-GPU."""

NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")


class TraceError(TesseraError):
    """A file is not a node or pod list of this trace."""


@dataclass(frozen=True, slots=True)
class Node:
    """One machine. `gpus` may be 0 (a CPU-only node); `model` is then empty."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int
    model: str


@dataclass(frozen=True, slots=True)
class PodType:
    """What a pod asks for. `gpu_milli` counts per GPU and is 1000 whenever several GPUs are asked for;
    `models` empty means any GPU model. The memory is a filter only, so the same type in the sense of the
    FGD paper has no memory.
    """

    cpu_milli: int
    memory_mib: int
    gpus: int
    gpu_milli: int
    models: tuple[str, ...] = ()

    @property
    def total_gpu_milli(self) -> int:
        """Demand over all GPUs, in milli-GPU."""
        return self.gpus * self.gpu_milli

    @property
    def shares_gpu(self) -> bool:
        """Whether it asks for a part of one GPU."""
        return self.gpus == 1 and self.gpu_milli < MILLI


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the list."""

    name: str
    type: PodType


def read_nodes(path: Path) -> list[Node]:
    """The nodes of a node list, in the order of their names.

    Raises:
        TraceError: the file cannot be read, lacks a column, has no GPU, or a cell is not what its column
        says.
    """
    nodes = []
    for line, row in _rows(path, NODE_COLUMNS):
        cpu, memory, gpus = (_natural(path, line, row, column) for column in NODE_COLUMNS[1:4])
        nodes.append(Node(row["sn"], cpu, memory, gpus, row["model"] if gpus else ""))
    if not any(node.gpus for node in nodes):
        raise TraceError(
            f"{path} has no node with a GPU", remedy="Give a node list such as openb_node_list_gpu_node.csv"
        )
    return sorted(nodes, key=lambda node: node.name)


def read_pods(path: Path) -> list[Pod]:
    """The pods of a pod list (any variant), in the order of their names.

    Raises:
        TraceError: the file cannot be read, lacks a column, asks for no GPU at all, or a cell is not what
        its column says.
    """
    pods = []
    for line, row in _rows(path, POD_COLUMNS):
        cpu, memory, gpus, milli = (_natural(path, line, row, column) for column in POD_COLUMNS[1:])
        if gpus and not 0 < milli <= MILLI:
            raise TraceError(f"{path}, line {line}: gpu_milli is {milli}", "it counts per GPU, 1 to 1000")
        if gpus > 1 and milli != MILLI:
            raise TraceError(
                f"{path}, line {line}: {gpus} GPUs of {milli} milli", "only one GPU can be shared"
            )
        models = tuple(m for m in (row.get("gpu_spec") or "").split("|") if m) if gpus else ()
        pods.append(Pod(row["name"], PodType(cpu, memory, gpus, milli if gpus else 0, models)))
    if not any(pod.type.gpus for pod in pods):
        raise TraceError(
            f"{path} has no pod that asks for a GPU", remedy="Give a pod list of the openb trace"
        )
    return sorted(pods, key=lambda pod: pod.name)


def _rows(path: Path, needed: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells of every row."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [column for column in needed if column not in (reader.fieldnames or ())]
            if missing:
                raise TraceError(
                    f"{path} lacks the column {missing[0]}", remedy=f"It must have {', '.join(needed)}"
                )
            return [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise TraceError(f"{path} cannot be read", error.strerror or str(error)) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path} is not a CSV file", str(error)) from error


def _natural(path: Path, line: int, row: dict[str, str], column: str) -> int:
    text = row[column] or ""
    if not text.isdigit():
        raise TraceError(
            f"{path}, line {line}: {column} is {text!r}", "it must be a whole number of at least 0"
        )
    return int(text)
