"""Which workloads there are. A new one adds one line here. A user's own needs none: it is named
`package.module:Class`, or its package declares a short name for that in the entry-point group
`tessera.workloads`.

A built-in package keeps its parameters in `parameters.py`, which does not import torch, so that listing,
describing and refusing a bad request take a fraction of a second. Its workload class is imported only to run.
"""

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from tessera_workloads.errors import UnknownWorkload
from tessera_workloads.parameters import Parameters
from tessera_workloads.protocol import Workload


@dataclass(frozen=True)
class Entry:
    """Where a built-in workload lives: `<package>.parameters:<class>Parameters`,
    `<package>.workload:<class>`.
    """

    package: str
    class_name: str
    summary: str


ENTRY_POINTS = "tessera.workloads"
"""The group in package metadata under which other packages declare their workloads."""

BUILT_IN: dict[str, Entry] = {
    "mlm": Entry("tessera_workloads.mlm", "Mlm", "masked language models that contradict themselves"),
    "nasa": Entry("tessera_workloads.nasa", "Nasa", "search for networks that shift and add"),
    "noiser": Entry("tessera_workloads.noiser", "Noiser", "low-light enhancement learned from pure noise"),
    "superft": Entry("tessera_workloads.superft", "Superft", "backdoors, removed by high learning rates"),
    "vitcod": Entry("tessera_workloads.vitcod", "Vitcod", "sparse attention that is really left out"),
}


def installed() -> Mapping[str, str]:
    """The workloads that installed packages declare: `package.module:Class` by name. Built-in names win."""
    found = entry_points(group=ENTRY_POINTS)
    return {point.name: point.value for point in found if point.name not in BUILT_IN}


def find_parameters(name: str) -> type[Parameters]:
    """The parameters class of a workload.

    Raises:
        UnknownWorkload: when there is no such workload, naming the nearest that there is.
    """
    if name in BUILT_IN:
        entry = BUILT_IN[name]
        found: type[Parameters] = _attribute(
            f"{entry.package}.parameters", f"{entry.class_name}Parameters", name
        )
        return found
    return find_workload(name).Parameters


def find_workload(name: str) -> Workload[Any]:
    """An instance of a workload, by its name or as `package.module:Class`.

    Raises:
        UnknownWorkload: when it does not exist, cannot be imported or is not a `Workload`.
    """
    module, class_name = _place(name)
    found = _attribute(module, class_name, name)
    if not (isinstance(found, type) and issubclass(found, Workload)):
        raise UnknownWorkload(
            f'"{name}" is not a workload: derive {class_name} from tessera_workloads.protocol.Workload'
        )
    return found()


def _place(name: str) -> tuple[str, str]:
    """Module and class of a workload."""
    if name in BUILT_IN:
        entry = BUILT_IN[name]
        return f"{entry.package}.workload", entry.class_name
    others = {} if ":" in name else installed()
    place = others.get(name, name)
    if ":" in place:
        module, class_name = place.split(":", 1)
        return module, class_name
    known = sorted([*BUILT_IN, *others])
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    raise UnknownWorkload(
        f'unknown workload "{name}": {hint}(known: {", ".join(known)}; your own: package.module:Class)'
    )


def _attribute(module: str, attribute: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownWorkload(
            f'workload "{name}" cannot be loaded: {error}; is its package on PYTHONPATH in this image?'
        ) from error
