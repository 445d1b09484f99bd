"""Which of the measured numbers are gates, which are controls, and which are only told.

The effect must exist in every form that was trained: the joint and the conditional disagree, the rectangle
does not close. Averaging both must not be worse than the worse of them. The same model untrained and under-
trained is the control, because inconsistency has to be read beside what a model knows. The ensemble of
conditionals is told with its interval, whatever it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tessera_workloads.mlm import completion
from tessera_workloads.protocol import Check, Metrics

MOST_EXACT = 1e-5
LEAST_GAP = 0.1
LEAST_RECTANGLE = 0.3

Rows = Sequence[Mapping[str, Any]]
"""Lines of a table; each measure has an interval in `<name>_low` and `<name>_high`."""

_MEASURES = {
    "gap": "median |joint - conditional|",
    "rectangle": "rectangle",
    "sign_average": "sign accuracy of the average",
    "sign_joint": "sign accuracy of the joint",
    "sign_conditional": "sign accuracy of the conditional",
    "disagreement": "share with opposite signs",
    "path": "path",
    "mse_average": "squared error of the average",
    "mse_joint": "squared error of the joint",
    "mse_conditional": "squared error of the conditional",
}
_GATED = ("gap", "rectangle")
_CONTROLLED = (*_GATED, "sign_average")
_ANSWERS = (completion.BASELINE, *completion.ENSEMBLES, *completion.EXACT)


def values(exact_inconsistency: float, tables: Mapping[str, Rows]) -> dict[str, float]:
    """The main numbers of both tables by name; the intervals stay in the tables."""
    found = {"exact_inconsistency": exact_inconsistency}
    for row in tables["consistency"]:
        names = _MEASURES if row["stage"] == "trained" else _CONTROLLED
        found |= {f"{row['model']}_{row['stage']}_{name}": row[name] for name in names if name in row}
    for row in tables.get("completion", ()):
        if row["way"] in _ANSWERS:
            found[f"completion_{row['way'].replace(' ', '_')}"] = row["accuracy"]
    return found


def checks(metrics: Metrics) -> list[Check]:
    """The exact table first, then every trained form with its controls, then the ensemble."""
    exact = metrics.values["exact_inconsistency"]
    found = [Check.at_most("exact table: largest inconsistency", exact, MOST_EXACT)]
    for row in metrics.tables["consistency"]:
        if row["stage"] == "trained":
            found += _trained(row)
        else:
            model = f"{row['model']}, {row['stage']}"
            found += [
                Check.note(f"{model}: {_MEASURES[name]}", row[name], kind="control") for name in _CONTROLLED
            ]
    answers = {row["way"]: row for row in metrics.tables.get("completion", ())}
    if answers:
        found += [Check.note(f"completion, {way}: accuracy", answers[way]["accuracy"]) for way in _ANSWERS]
        for way in completion.ENSEMBLES:
            label = f"completion, {way}: gain over the baseline"
            found += [Check.note(label, answers[way]["gain"]), *_interval(label, answers[way], "gain")]
    return found


def _trained(row: Mapping[str, Any]) -> list[Check]:
    model, worse = row["model"], min(row["sign_joint"], row["sign_conditional"])
    gates = [
        Check.at_least(f"{model}: {_MEASURES['gap']}", row["gap"], LEAST_GAP),
        Check.at_least(f"{model}: {_MEASURES['rectangle']}", row["rectangle"], LEAST_RECTANGLE),
        Check.at_least(
            f"{model}: {_MEASURES['sign_average']} above the worse single one",
            row["sign_average"] - worse,
            0.0,
        ),
    ]
    told = [
        Check.note(f"{model}: {_MEASURES[name]}", row[name])
        for name in _MEASURES
        if name in row and name not in _GATED
    ]
    return (
        gates + told + [end for name in _GATED for end in _interval(f"{model}: {_MEASURES[name]}", row, name)]
    )


def _interval(label: str, row: Mapping[str, Any], name: str) -> list[Check]:
    return [
        Check.note(f"{label}, 95 % from", row[f"{name}_low"]),
        Check.note(f"{label}, 95 % to", row[f"{name}_high"]),
    ]
