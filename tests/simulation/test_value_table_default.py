"""The default policy with its learned values accepts more than plain FGD, on mixes of all kinds.

Fixed workloads, the same for both; enough of them that the difference is well above chance. The full
evidence, with intervals, is docs/results/value-table.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from simulation.simulate_command import report
from tessera.placement.policies import DEFAULT_POLICY

PROFILES = ("1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb")


def gaps(*arguments: str) -> dict[str, float]:
    """Mean gap to the ideal pool by policy."""
    means = report("online", "--policy", "fgd", "--policy", "default", *arguments)["mean"]
    return {policy: figures["gap_to_pool_pct"] for policy, figures in means.items()}


@pytest.mark.parametrize("mix", ["uniform", "skew-small", "skew-big", "bimodal"])
def test_named_mixes(mix: str) -> None:
    found = gaps("--mix", mix, "--arrivals", "8000", "--seeds", "2")
    assert found[DEFAULT_POLICY] > found["fgd"]


@pytest.mark.parametrize(
    "weights",
    [(6, 3, 2, 1.5, 1.2, 1), (1, 2, 4, 5, 1, 1), (1, 0, 3, 0, 2, 1)],
    ids=["zipf", "middle", "gaps"],
)
def test_other_mixes(weights: tuple[float, ...], tmp_path: Path) -> None:
    mix = tmp_path / "mix.csv"
    rows = [f"{profile},{weight}" for profile, weight in zip(PROFILES, weights, strict=True) if weight]
    mix.write_text("\n".join(["profile,weight", *rows]) + "\n")
    found = gaps("--mix", str(mix), "--arrivals", "8000", "--seeds", "2")
    assert found[DEFAULT_POLICY] > found["fgd"]


@pytest.mark.parametrize("model", ["A30-24GB", "RTXPRO6000-96GB"])
def test_other_geometries(model: str) -> None:
    """With three sizes in four slices there is hardly a choice, so policies are a tenth of a point apart."""
    found = gaps("--model", model, "--arrivals", "6000", "--seeds", "3")
    assert found[DEFAULT_POLICY] > found["fgd"] - 0.1
