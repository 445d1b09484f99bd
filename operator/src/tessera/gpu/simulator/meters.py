"""The meters of a node's GPUs, in `meters.json` beside the state, so that all processes read the same ones.

Each reading carries its GPU's meter on to now (`metering.advance`) and stores it, which is why energy never
falls: whatever was read once stays counted. A process counts from the moment at which it began; when it ends
between two readings, it counts up to the first of them, because nobody knows when it ended. A meter starts at
its first reading, and again at 0 when the driver is loaded anew.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tessera.gpu.lock_file import exclusive
from tessera.gpu.profiles import board
from tessera.gpu.simulator import rules
from tessera.gpu.simulator.metering import Load, Meter, advance
from tessera.gpu.simulator.state import DamagedState, Node, SimulatedGPU


def loads(gpu: SimulatedGPU) -> list[Load]:
    """What the live processes of a GPU keep busy."""
    whole = rules.geometry(gpu).compute_slices
    holders = [(client, 0, 0, 1.0) for client in gpu.clients]
    holders += [
        (process, compute.serial, instance.serial, compute.size / whole)
        for instance in gpu.instances
        for compute in instance.compute
        for process in compute.processes
    ]
    return [
        Load(place=place, instance=instance, slices=slices, busy=process.busy, since=process.since)
        for process, place, instance, slices in holders
        if process.busy and process.alive()
    ]


class MeterFile:
    """One node's meters on disk."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._path = directory / "meters.json"
        self._lock_path = directory / "meters.lock"

    def read(self, node: Node, gpu: SimulatedGPU) -> Meter:
        """The GPU's meter now. Raises `DamagedState` when the file is not what this simulator wrote."""
        present = {"0", *(str(instance.serial) for instance in gpu.instances)}
        with exclusive(self._lock_path):
            now = self.clock()
            stored = self._load()
            record = stored.get(gpu.uuid, {"driver_loads": -1})
            # The most of both: the caller may have looked at the node before the driver was loaded again.
            driver_loads = max(record["driver_loads"], node.driver_loads)
            before = _meter(record["meter"]) if record["driver_loads"] == driver_loads else Meter(at=now)
            meter = advance(before, limit_w=board(gpu.model).power_limit_w, loads=loads(gpu), now=now)
            written = asdict(meter)
            written["busy_s"] = {str(k): s for k, s in meter.busy_s.items() if str(k) in present}
            stored[gpu.uuid] = {"driver_loads": driver_loads, "meter": written}
            self._store(stored)
        return meter

    def _load(self) -> dict[str, Any]:
        try:
            stored: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise DamagedState(self._path, f"is not JSON ({error})") from error
        return stored

    def _store(self, stored: dict[str, Any]) -> None:
        """Replace the file as a whole: a process killed here leaves the old meters or the new ones."""
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(stored), encoding="utf-8")
        temporary.replace(self._path)


def _meter(written: dict[str, Any]) -> Meter:
    return Meter(**{**written, "busy_s": {int(key): seconds for key, seconds in written["busy_s"].items()}})
