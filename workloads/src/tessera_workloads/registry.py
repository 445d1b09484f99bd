"""Which workloads there are. A new one adds one line here; a user's own needs none: `package.module:Class`.

A built-in package keeps its parameters in `parameters.py`, which does not import torch, so that listing,
describing and refusing a bad request take a fraction of a second. Its workload class is imported only to run.
"""

import difflib
import importlib
from dataclasses import dataclass
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


BUILT_IN: dict[str, Entry] = {
    "mlm": Entry("tessera_workloads.mlm", "Mlm", "contradictions of masked language models, beside the truth"),
    "noiser": Entry("tessera_workloads.noiser", "Noiser", "low-light enhancement learned from pure noise"),
}


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
    if name in BUILT_IN:
        entry = BUILT_IN[name]
        module, class_name = f"{entry.package}.workload", entry.class_name
    elif ":" in name:
        module, class_name = name.split(":", 1)
    else:
        near = difflib.get_close_matches(name, BUILT_IN, n=1, cutoff=0.4)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        raise UnknownWorkload(
            f'unknown workload "{name}": {hint}(known: {", ".join(sorted(BUILT_IN))}; '
            "your own: package.module:Class)"
        )
    found = _attribute(module, class_name, name)
    if not (isinstance(found, type) and issubclass(found, Workload)):
        raise UnknownWorkload(
            f'"{name}" is not a workload: derive {class_name} from tessera_workloads.protocol.Workload'
        )
    return found()


def _attribute(module: str, attribute: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UnknownWorkload(
            f'workload "{name}" cannot be loaded: {error}; is its package on PYTHONPATH in this image?'
        ) from error
