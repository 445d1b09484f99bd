"""The tables of `tessera simulate trace`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.simulate.report import cell, print_table, with_interval
from tessera.simulate.statistics import summarise

ARMS = ("pods", "policy")
IDENTIFY = ("seed",)


def print_trace(runs: Sequence[Mapping[str, Any]], *, title: str) -> None:
    """One table per pod list, a line per policy; with one policy also why GPUs are idle in the end."""
    for pods in dict.fromkeys(run["pods"] for run in runs):
        block = [run for run in runs if run["pods"] == pods]
        policies = list(dict.fromkeys(run["policy"] for run in block))
        levels = [key for key in block[0] if key.startswith("allocation_pct_")]
        paired = "gain_over_fgd_pct" in block[0] and len(policies) > 1
        rows = []
        for policy in policies:
            mean, half = summarise([run for run in block if run["policy"] == policy])
            early = [with_interval(mean[key], None, digits=2) for key in levels[:-1]]
            last = [cell(mean, half, key, digits=2) for key in (*levels[-1:], "fragmentation_pct")]
            gain = [cell(mean, half, "gain_over_fgd_pct", digits=2)] if paired else []
            rows.append([policy, *early, *last, *gain])
        at = [f"{key.removeprefix('allocation_pct_')} %" for key in levels]
        columns = ["policy", *at, "fragm.", *(["over fgd"] if paired else [])]
        print_table(f"{title}: {pods}, allocated % of the GPUs by arrived demand", columns, rows)
        if len(policies) == 1:
            mean, half = summarise([{"unallocated_pct": run["unallocated_pct"]} for run in block])
            causes, spread = mean["unallocated_pct"], half["unallocated_pct"]
            print_table(
                "Idle at the end",
                ["cause", "% of the GPUs"],
                [[name, with_interval(causes[name], spread.get(name), digits=2)] for name in causes],
            )
