"""Free devices by first fit, as the published counters tell. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tessera.api import names


@dataclass(frozen=True, slots=True)
class Device:
    """A device and what it takes of its GPU's counters."""

    pool: str
    name: str
    gpu: tuple[str, str]
    takes: tuple[tuple[str, int], ...]


class FirstFit:
    """Gives out devices of a profile in the order in which they are published."""

    def __init__(self, slices: Iterable[Mapping[str, Any]]) -> None:
        self._free: dict[tuple[str, str], dict[str, int]] = {}
        self._devices: dict[str, list[Device]] = {}
        self._by_name: dict[tuple[str, str], Device] = {}
        self._cursor: dict[str, int] = {}
        for spec in (item["spec"] for item in slices):
            pool = spec["pool"]["name"]
            for counters in spec.get("sharedCounters") or ():
                values = {name: int(counter["value"]) for name, counter in counters["counters"].items()}
                self._free[(pool, counters["name"])] = values
            for published in spec.get("devices") or ():
                self._add(pool, published)

    def _add(self, pool: str, published: Mapping[str, Any]) -> None:
        (consumed,) = published["consumesCounters"]
        takes = tuple((name, int(counter["value"])) for name, counter in consumed["counters"].items())
        device = Device(pool, published["name"], (pool, consumed["counterSet"]), takes)
        profile = published["attributes"][names.ATTRIBUTE_PROFILE]["string"]
        self._devices.setdefault(profile, []).append(device)
        self._by_name[pool, device.name] = device

    def take(self, profile: str) -> tuple[str, str] | None:
        """(pool, device) of the first that is free, None when there is none."""
        devices = self._devices.get(profile, [])
        # What was not free stays so until something is given back.
        for position in range(self._cursor.get(profile, 0), len(devices)):
            device = devices[position]
            free = self._free[device.gpu]
            if all(free[name] >= count for name, count in device.takes):
                for name, count in device.takes:
                    free[name] -= count
                self._cursor[profile] = position + 1
                return device.pool, device.name
        self._cursor[profile] = len(devices)
        return None

    def give_back(self, pool: str, device: str) -> None:
        """The device is free again."""
        given = self._by_name[pool, device]
        for name, count in given.takes:
            self._free[given.gpu][name] += count
        self._cursor.clear()
