"""FGD on slices accepts more than a random place: on every one of 20 fixed workloads, at every load."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from tessera.cli.simulate import command
from tessera.placement.policies import DEFAULT_POLICY

SEEDS = 20


@pytest.mark.parametrize("load", ["0.8", "1.0", "1.2"])
def test_slice_acceptance_is_above_random_on_the_same_workload(load: str) -> None:
    policies = [option for name in ("fgd", "default", "random") for option in ("--policy", name)]
    done = CliRunner().invoke(
        command,
        [
            *("online", "--load", load, "--gpus", "30", "--arrivals", "1200"),
            *("--seeds", str(SEEDS), "--json", *policies),
        ],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    accepted: dict[str, dict[int, float]] = {}
    for run in json.loads(done.stdout)["runs"]:
        accepted.setdefault(run["policy"], {})[run["seed"]] = run["slice_acceptance_pct"]
    by_chance = accepted.pop("random")
    assert len(by_chance) == SEEDS
    assert set(accepted) == {"fgd", DEFAULT_POLICY}
    for policy, figures in accepted.items():
        for seed, accepted_pct in figures.items():
            assert accepted_pct > by_chance[seed], f"{policy}, seed {seed}"
