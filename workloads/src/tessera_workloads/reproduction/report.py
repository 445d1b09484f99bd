"""The page of results: for each workload its gates, controls and reports per seed, with means and verdicts.

Pure: from what the runs left (`result.json`, parsed) to Markdown. A gate passes when every seed passes it,
or, where it is claimed of the mean, when the mean does.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tessera_workloads.protocol import Check

_KINDS = ("gate", "control", "report")
_MIB = 2**20


@dataclass(frozen=True)
class Judged:
    """One check over all seeds; a seed that lacks it has None."""

    kind: str
    name: str
    bound: str
    over: str
    values: tuple[float | None, ...]
    each_passed: bool

    @property
    def mean(self) -> float | None:
        """Over the seeds; None when one has no number."""
        numbers = [value for value in self.values if value is not None]
        return statistics.fmean(numbers) if len(numbers) == len(self.values) else None

    @property
    def passed(self) -> bool:
        """Whether the gate holds; always true without a bound."""
        if self.over == "mean":
            return self.mean is not None and Check.keeps(self.mean, self.bound)
        return self.each_passed

    @property
    def verdict(self) -> str:
        """The last cell of its row."""
        if not self.bound:
            return ""
        said = "pass" if self.passed else "**FAIL**"
        return f"{said} (mean)" if self.over == "mean" else said


def judge(results: Mapping[int, Mapping[str, Any]]) -> list[Judged]:
    """The checks of one workload over its seeds: gates, then controls, then reports, each in their order."""
    names = {check["name"]: check for result in results.values() for check in result["checks"]}
    judged = [_judged(check, results) for check in names.values()]
    return sorted(judged, key=lambda one: _KINDS.index(one.kind))


def _judged(check: Mapping[str, Any], results: Mapping[int, Mapping[str, Any]]) -> Judged:
    found = [
        next((one for one in result["checks"] if one["name"] == check["name"]), None)
        for result in results.values()
    ]
    return Judged(
        kind=check["kind"],
        name=check["name"],
        bound=check["bound"],
        over=check["over"],
        values=tuple(one["value"] if one else None for one in found),
        each_passed=all(one is not None and one["passed"] for one in found),
    )


def section(
    name: str, summary: str, results: Mapping[int, Mapping[str, Any]], pictures: Sequence[str]
) -> str:
    """One workload: `results` by seed, `pictures` as paths relative to the page."""
    seeds = list(results)
    lines = [f"## {name}", "", f"{summary}." if summary else "", ""]
    lines += _table(
        ["kind", "check", "bound", *(f"seed {seed}" for seed in seeds), "mean", ""],
        [
            [one.kind, one.name, one.bound, *map(_number, one.values), _number(one.mean), one.verdict]
            for one in judge(results)
        ],
    )
    lines += [
        "",
        *_table(
            ["seed", "phase", "steps", "seconds", "peak tensor bytes, MiB", "foreseen, MiB", "GFLOP a step"],
            [row for seed, result in results.items() for row in _phase_rows(seed, result)],
        ),
    ]
    lines += [f"\n![{name}: {picture}]({picture})" for picture in pictures]
    return "\n".join(lines) + "\n"


def _phase_rows(seed: int, result: Mapping[str, Any]) -> list[list[str]]:
    foreseen = {row["phase"]: row for row in result["footprint"] or []}
    rows = []
    for phase in result["phases"]:
        plan = foreseen.get(phase["name"])
        rows.append(
            [
                str(seed),
                phase["name"],
                str(phase["steps"]),
                f"{phase['seconds']:.1f}",
                f"{phase['peakTensorBytes'] / _MIB:.2f}",
                f"{plan['peakTensorBytes'] / _MIB:.2f}" if plan else "",
                f"{plan['stepFlops'] / 1e9:.4f}" if plan else "",
            ]
        )
    return rows


def page(sections: Sequence[str], *, command: str, conditions: Sequence[str]) -> str:
    """The whole page, with the command that writes it."""
    head = [
        "# Workloads: recorded results",
        "",
        "Written by the command. A gate must pass for every seed, or for the mean where it says so.",
        "",
        "```console",
        f"$ {command}",
        "```",
        "",
        *conditions,
        "",
    ]
    return "\n".join(head) + "\n" + "\n".join(sections)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
