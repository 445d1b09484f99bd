"""Reads the question of `tessera pack --services` from the text of a file: YAML, or one CSV table.

Both forms are described in docs/pack.md. Every refusal names the file, the line and the key. Reading other
files is left to the caller, who passes `read`.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from tessera.api.errors import did_you_mean
from tessera.packing.boards import Pool, board_named, parse_pool
from tessera.packing.errors import BadPackingInput
from tessera.packing.services import HeadRoom, Measurement, Question, Service

TOP_KEYS = ("gpus", "utilisation", "latency_share", "share_slices", "measurements", "services")
GPU_KEYS = ("model", "limit", "cost")
SERVICE_KEYS = ("name", "workload", "rate_per_second", "slo_ms")
MEASUREMENT_KEYS = (
    *("workload", "gpu", "profile", "processes", "batch"),
    *("throughput_per_second", "latency_ms", "mode"),
)
TABLE_KEYS = ("service", "rate_per_second", "slo_ms", *MEASUREMENT_KEYS[1:])
_OPTIONAL = {"mode", "batch", "processes", "workload", "latency_ms"}
"""Cells that may be empty. The latency is missing where nothing ran; where it is needed, that is said."""

Read = Callable[[str], str]
"""The text of a file that is named in the one being read, relative to it."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where something stands: `services.yaml:12`."""

    source: str
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}"


def parse_services(text: str, *, source: str, read: Read) -> Question:
    """The question of a file; `source` is its name and decides the form (`.csv`, else YAML).

    Raises BadPackingInput.
    """
    if source.lower().endswith(".csv"):
        return _from_table(text, source)
    return _from_yaml(text, source, read)


def _from_yaml(text: str, source: str, read: Read) -> Question:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadPackingInput(f"{source}:{line}: this is no YAML", str(error.problem)) from error
    lines: dict[tuple[str | int, ...], int] = {}
    if node is not None:
        _note_lines(node, (), lines)

    def spot(*path: str | int) -> Spot:
        while path and path not in lines:
            path = path[:-1]
        return Spot(source, lines.get(path, 1))

    top = _mapping(document, TOP_KEYS, spot(), required=("measurements", "services"))
    pools = tuple(
        _pool(entry, spot("gpus", at)) for at, entry in enumerate(_list(top.get("gpus", []), spot("gpus")))
    )
    services = tuple(
        _service(entry, spot("services", at))
        for at, entry in enumerate(_list(top["services"], spot("services")))
    )
    default = HeadRoom()
    share = top.get("share_slices", False)
    if not isinstance(share, bool):
        raise BadPackingInput(
            f"{spot('share_slices')}: share_slices is {share!r}", "", "Write true or false."
        )
    return Question(
        pools=pools,
        services=services,
        measurements=_measurements(top["measurements"], spot, read),
        head_room=HeadRoom(
            utilisation=_number(top, "utilisation", spot("utilisation"), default.utilisation),
            latency_share=_number(top, "latency_share", spot("latency_share"), default.latency_share),
        ),
        share_slices=share,
    )


def _note_lines(
    node: yaml.Node, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]
) -> None:
    lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            _note_lines(value, (*path, str(key.value)), lines)
            lines[*path, str(key.value)] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for at, value in enumerate(node.value):
            _note_lines(value, (*path, at), lines)


def _measurements(value: Any, spot: Callable[..., Spot], read: Read) -> tuple[Measurement, ...]:
    if isinstance(value, str):
        return _measurement_table(read(value), value)
    entries = _list(value, spot("measurements"))
    return tuple(_measurement(entry, spot("measurements", at)) for at, entry in enumerate(entries))


def _measurement_table(text: str, source: str) -> tuple[Measurement, ...]:
    return tuple(_measurement(row, where) for row, where in _rows(text, source, MEASUREMENT_KEYS))


def _from_table(text: str, source: str) -> Question:
    """One table: a row is a measurement of a service; rate and bound may stand in its first row only."""
    wanted: dict[str, dict[str, Any]] = {}
    measurements = []
    for row, where in _rows(text, source, TABLE_KEYS):
        name = row["service"]
        known = wanted.setdefault(name, {"name": name, "where": where})
        for key in ("rate_per_second", "slo_ms"):
            given = row.pop(key, None)
            if given is not None and known.setdefault(key, given) != given:
                raise BadPackingInput(
                    f"{where}: {key} of {name} is {given}", f"a row above says {known[key]}", "Give it once."
                )
        measurements.append(
            _measurement({"workload": name, **{k: v for k, v in row.items() if k != "service"}}, where)
        )
    services = tuple(
        _service({k: v for k, v in found.items() if k != "where"}, found["where"])
        for found in wanted.values()
    )
    return Question(pools=(), services=services, measurements=tuple(measurements))


def _rows(text: str, source: str, keys: Sequence[str]) -> list[tuple[dict[str, Any], Spot]]:
    """The rows of a table with a header; cells that are empty are left out."""
    reader = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    header = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = header
    first = Spot(source, 1)
    for name in header:
        if name not in keys:
            raise _unknown_key(name, keys, first)
    missing = [key for key in keys if key not in header and key not in _OPTIONAL - {"latency_ms"}]
    if missing:
        raise BadPackingInput(f"{first}: the columns {', '.join(missing)} are missing")
    rows = []
    for row in reader:
        where = Spot(source, reader.line_num)
        if None in row or None in row.values():
            raise BadPackingInput(f"{where}: the row has not {len(header)} cells, as the header has")
        rows.append(({key: cell.strip() for key, cell in row.items() if cell.strip()}, where))
    if not rows:
        raise BadPackingInput(f"{first}: the table has no rows")
    return rows


def _mapping(value: Any, keys: Sequence[str], where: Spot, *, required: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadPackingInput(
            f"{where}: keys and values are expected here", f"known keys are {', '.join(keys)}"
        )
    for key in value:
        if key not in keys:
            raise _unknown_key(str(key), keys, where)
    for key in required:
        if value.get(key) is None:
            raise BadPackingInput(f"{where}: {key} is missing")
    return value


def _unknown_key(key: str, keys: Sequence[str], where: Spot) -> BadPackingInput:
    return BadPackingInput(
        f"{where}: {key!r} is not known", f"known are {', '.join(keys)}", did_you_mean(key, keys)
    )


def _list(value: Any, where: Spot) -> Sequence[Any]:
    if not isinstance(value, list):
        raise BadPackingInput(f"{where}: a list is expected here")
    return value


def _pool(value: Any, where: Spot) -> Pool:
    if isinstance(value, str):
        return parse_pool(value)
    entry = _mapping(value, GPU_KEYS, where, required=("model",))
    limit = _whole(entry, "limit", where) if entry.get("limit") is not None else None
    try:
        return Pool(board_named(str(entry["model"])), cost=_number(entry, "cost", where, 1.0), limit=limit)
    except ValueError as error:
        raise BadPackingInput(f"{where}: {error}") from None


def _service(value: Any, where: Spot) -> Service:
    entry = _mapping(value, SERVICE_KEYS, where, required=("name", "rate_per_second", "slo_ms"))
    name = str(entry["name"])
    return Service(
        name=name,
        workload=str(entry.get("workload", name)),
        rate_per_second=_positive(entry, "rate_per_second", where),
        slo_ms=_positive(entry, "slo_ms", where),
    )


def _measurement(value: Any, where: Spot) -> Measurement:
    required = [key for key in MEASUREMENT_KEYS if key not in _OPTIONAL or key == "workload"]
    entry = _mapping(value, MEASUREMENT_KEYS, where, required=required)
    try:
        board = board_named(str(entry["gpu"]))
    except BadPackingInput as error:
        raise BadPackingInput(f"{where}: {error}") from None
    profile = str(entry["profile"])
    known = [p.name for p in board.profiles]
    if profile not in known:
        raise BadPackingInput(
            f"{where}: {board.name} has no profile {profile!r}",
            f"it has {', '.join(known)}",
            did_you_mean(profile, known),
        )
    throughput = _number(entry, "throughput_per_second", where)
    # What does not run has neither throughput nor a latency worth reading.
    latency = _positive(entry, "latency_ms", where) if throughput > 0 else 0.0
    return Measurement(
        workload=str(entry["workload"]),
        gpu=board.name,
        profile=profile,
        processes=_whole(entry, "processes", where, 1),
        batch=_whole(entry, "batch", where, 1),
        throughput_per_second=throughput,
        latency_ms=latency,
        mode=str(entry.get("mode", "")),
    )


def _number(entry: Mapping[str, Any], key: str, where: Spot, default: float | None = None) -> float:
    value = entry.get(key, default)
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise BadPackingInput(f"{where}: {key} is {value!r}", "a number that is not negative is expected")
    return number


def _positive(entry: Mapping[str, Any], key: str, where: Spot) -> float:
    number = _number(entry, key, where)
    if number <= 0:
        raise BadPackingInput(f"{where}: {key} is {entry.get(key)!r}", "it must be above 0")
    return number


def _whole(entry: Mapping[str, Any], key: str, where: Spot, default: int | None = None) -> int:
    number = _number(entry, key, where, default)
    if not number.is_integer() or number < 1:
        raise BadPackingInput(
            f"{where}: {key} is {entry.get(key)!r}", "a whole number of at least 1 is expected"
        )
    return int(number)
