"""DeviceClasses that mean our devices: their selectors hold beside those of each request, and their
configuration is copied into the allocation, as kube-scheduler does for devices that it allocates.

`slice.tessera.dev` is ours whether the object exists or not. Another class is ours when its selectors name
our driver and refuse a device of any other driver; so an administrator can offer `big-slice` as a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tessera.api import names
from tessera.scheduler.selectors import DeviceView, InvalidSelector, SelectorCache

_OF_ANOTHER_DRIVER = DeviceView(driver="driver.invalid", attributes={}, capacity={})


@dataclass(frozen=True)
class DeviceClass:
    """A class of our devices: CEL expressions that must all hold, and opaque configuration for our driver."""

    name: str
    expressions: tuple[str, ...] = ()
    config: tuple[Mapping[str, Any], ...] = ()


Classes = Mapping[str, DeviceClass]

NO_OBJECTS: Classes = {names.DEVICE_CLASS: DeviceClass(names.DEVICE_CLASS)}
"""What holds in a cluster without any DeviceClass object."""


class ClassReader:
    """Reads DeviceClass objects; gives the same mapping as before while none has changed."""

    def __init__(self, selectors: SelectorCache) -> None:
        self._selectors = selectors
        self._versions: frozenset[tuple[str, str]] = frozenset()
        self._classes = NO_OBJECTS

    def read(self, objects: Iterable[Mapping[str, Any]]) -> Classes:
        """Our classes by name."""
        listed = list(objects)
        versions = frozenset((o["metadata"]["uid"], o["metadata"]["resourceVersion"]) for o in listed)
        if versions != self._versions:
            self._versions = versions
            read = [read_class(obj) for obj in listed]
            self._classes = {**NO_OBJECTS, **{c.name: c for c in read if is_ours(c, self._selectors)}}
        return self._classes


def read_class(obj: Mapping[str, Any]) -> DeviceClass:
    """A DeviceClass object; configuration for other drivers is left out."""
    spec = obj.get("spec") or {}
    return DeviceClass(
        name=obj["metadata"]["name"],
        expressions=tuple(s["cel"]["expression"] for s in spec.get("selectors") or () if "cel" in s),
        config=tuple(
            entry["opaque"]
            for entry in spec.get("config") or ()
            if (entry.get("opaque") or {}).get("driver") == names.DRIVER
        ),
    )


def is_ours(found: DeviceClass, selectors: SelectorCache) -> bool:
    """Whether the class can only mean our devices. One whose expression is broken but names our driver is
    ours too, so that its user is told.
    """
    if found.name == names.DEVICE_CLASS:
        return True
    if not any(names.DRIVER in expression for expression in found.expressions):
        return False
    try:
        return not all(s.matches(_OF_ANOTHER_DRIVER) for s in selectors.all(found.expressions))
    except InvalidSelector:
        # Most often: an attribute that only our devices have.
        return True
