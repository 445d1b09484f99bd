"""Which run a result is of: what was asked for, what decides its weights, and what it was computed with."""

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from tessera_workloads import __version__
from tessera_workloads.device import Place
from tessera_workloads.parameters import Parameters
from tessera_workloads.protocol import Dataset, Workload

P = TypeVar("P", bound=Parameters)


@dataclass(frozen=True)
class Request(Generic[P]):
    """What is to be run. `name` is the name it was asked by; `size` is for the record, the parameters say it
    all.
    """

    name: str
    workload: Workload[P]
    parameters: P
    size: str
    seed: int
    out: Path
    checkpoint_every: int
    allow_thread_change: bool = False
    fresh: bool = False
    foresee: bool = False


def identity(request: Request[P], place: Place, threads: int) -> dict[str, Any]:
    """What every result begins with."""
    held = place.slice
    return {
        "workload": request.name,
        "workloadVersion": request.workload.version,
        "size": request.size,
        "parameters": request.parameters.as_dict(),
        "seed": request.seed,
        "threads": threads,
        "device": {
            "type": place.device.type,
            "name": torch.cuda.get_device_name() if place.device.type == "cuda" else platform.machine(),
            "slice": None
            if held is None
            else {
                "profile": held.profile,
                "uuid": held.uuid,
                "memoryBytes": held.memory_bytes,
                "simulated": held.simulated,
            },
        },
        "versions": versions(),
    }


def configuration(request: Request[P], train_data: Dataset) -> dict[str, Any]:
    """All that decides the trained weights: two runs with the same configuration are the same run."""
    return {
        "workload": request.name,
        "workloadVersion": request.workload.version,
        "parameters": request.parameters.as_dict(),
        "seed": request.seed,
        "data": train_data.content_hash(),
    }


def configuration_hash(configured: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(configured, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what computes and of where the data come from, as far as they are here; in a plain tree
    without metadata a package that is imported tells its own.
    """
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tessera-workloads": __version__,
    }
    for module, name in (("numpy", "numpy"), ("skimage", "scikit-image"), ("sklearn", "scikit-learn")):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if module in sys.modules:
                found[name] = str(getattr(sys.modules[module], "__version__", "unknown"))
    if torch.cuda.is_available():
        found["cuda"] = str(torch.version.cuda)
    return found
