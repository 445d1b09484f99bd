"""What there is to run, and what can be said about it before it runs."""

import argparse
import json
from typing import Any

from tessera_workloads.command_line import assignments
from tessera_workloads.parameters import Parameters
from tessera_workloads.registry import BUILT_IN, find_parameters, find_workload, installed
from tessera_workloads.tables import aligned

_MIB = 2**20


def listing() -> str:
    """The built-in workloads and those that other installed packages bring, one to a line."""
    rows = {name: entry.summary for name, entry in BUILT_IN.items()}
    rows |= {name: f"installed: {place}" for name, place in installed().items()}
    return "\n".join(f"{name:<12}{summary}" for name, summary in sorted(rows.items()))


def describe(arguments: argparse.Namespace) -> str:
    """A workload's parameters, ranges and sizes, and its footprint where that is asked for.

    Raises:
        UnknownWorkload, InvalidParameter: when it is not there, or cannot be set so.
        NotOffered: when a footprint is asked for and the workload has no example batch.
    """
    name = arguments.workload
    declared = find_parameters(name)
    p = declared.parse(assignments(arguments.set), size=arguments.size)
    foreseen = _footprint(name, p) if arguments.footprint else None
    if arguments.json:
        sizes = {size: dict(changes) for size, changes in declared.sizes.items()}
        content = {"workload": name, "parameters": declared.json_schema(), "sizes": sizes}
        return json.dumps(content if foreseen is None else content | {"footprint": foreseen}, indent=2)
    if foreseen is not None:
        return _footprint_table(foreseen)
    return _parameters_text(name, declared)


def _parameters_text(name: str, declared: type[Parameters]) -> str:
    lines = [f"{name}: {BUILT_IN[name].summary}" if name in BUILT_IN else name, ""]
    specs = declared.specs()
    width = max((len(spec.name) for spec in specs), default=0)
    for spec in specs:
        lines.append(f"  {spec.name:<{width}}  {spec.bounds.help}")
        lines.append(f"  {'':<{width}}  {spec.domain}; default {spec.default}")
    lines += ["", "sizes"]
    for size, changes in declared.sizes.items():
        said = ", ".join(f"{key}={value}" for key, value in changes.items()) or "the defaults"
        lines.append(f"  {size:<6} {said}")
    return "\n".join(lines)


def _footprint(name: str, p: Parameters) -> list[dict[str, Any]]:
    from tessera_workloads.footprint import footprint

    return [phase.as_json() for phase in footprint(find_workload(name), p)]


def _footprint_table(foreseen: list[dict[str, Any]]) -> str:
    """One line per phase; memory in MiB, arithmetic in GFLOP a step."""
    counts = ["phase", "steps", "batch", "parameters"]
    sizes = ("weightBytes", "optimizerBytes", "activationBytes", "peakTensorBytes")
    rows = [
        [
            *(str(row[key]) for key in counts),
            *(f"{row[key] / _MIB:.2f}" for key in sizes),
            f"{row['stepFlops'] / 1e9:.4f}",
        ]
        for row in foreseen
    ]
    head = [*counts, "weights", "optimiser", "activations", "peak, MiB", "GFLOP/step"]
    return aligned(head, rows, left=1)
