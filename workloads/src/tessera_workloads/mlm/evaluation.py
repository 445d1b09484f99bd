"""All measures with their intervals, for the models and for what they must be read against.

Each form of the model is measured when it is untrained, under-trained and trained: inconsistency alone says
little of what a model knows. The exact table must score zero. Intervals are 95 % percentile bootstraps over
the probes or the questions.
"""

from typing import Any

import numpy as np
import torch

from tessera_workloads.mlm import completion
from tessera_workloads.mlm.consistency import (
    INCONSISTENCIES,
    T5,
    Columns,
    Exact,
    Scorer,
    against_truth,
    measure,
)
from tessera_workloads.mlm.data import Examination
from tessera_workloads.randomness import derive_seed

LOG_ODDS = ("joint", "conditional", "truth")
"""What measures are made of; no measures themselves."""

_RESAMPLES = 1000
_CPU = torch.device("cpu")


def examine(scorer: Scorer, examination: Examination, device: torch.device) -> Columns:
    """Every measure and every log-odds, per probe."""
    truth = measure(Exact(examination.language), examination.probes, device=_CPU)["conditional"]
    columns = measure(scorer, examination.probes, device=device)
    return {**columns, "truth": truth, **against_truth(columns, truth)}


def largest_exact_inconsistency(examination: Examination) -> float:
    """The largest measure of any probe when the language's own table answers."""
    columns = measure(Exact(examination.language), examination.probes, device=_CPU)
    return max(float(columns[name].max()) for name in INCONSISTENCIES)


def answer(scorer: T5, examination: Examination, device: torch.device) -> list[dict[str, Any]]:
    """A row for every way to answer the questions: its accuracy, and what it gains over the baseline."""
    questions = examination.questions
    chosen = completion.choose(completion.score(scorer, questions, device=device))
    chosen |= completion.choose_exactly(examination.language, questions)
    correct = {name: (choice == questions.true).double().numpy() for name, choice in chosen.items()}
    baseline = correct[completion.BASELINE]
    return [
        {"way": name, **summarise({"accuracy": column, "gain": column - baseline})}
        for name, column in correct.items()
    ]


def summarise(columns: Columns) -> dict[str, float]:
    """The median of `gap`, the mean of other measures, and their intervals (`<name>_low`, `<name>_high`)."""
    count = len(next(iter(columns.values())))
    random = np.random.default_rng(derive_seed(0, "mlm", "bootstrap"))
    drawn = random.integers(0, count, (_RESAMPLES, count))
    found: dict[str, float] = {}
    for name, column in columns.items():
        if name in LOG_ODDS:
            continue
        centre = np.median if name == "gap" else np.mean
        low, high = np.quantile(centre(column[drawn], axis=1), (0.025, 0.975))
        found |= {name: float(centre(column)), f"{name}_low": float(low), f"{name}_high": float(high)}
    return found
