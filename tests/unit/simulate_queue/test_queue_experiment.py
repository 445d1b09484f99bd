"""Arms, paired differences, and the command as a user calls it."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tessera.cli.simulate_queue import command
from tessera.gpu.profiles import model
from tessera.simulate.errors import BadSimulationInput
from tessera.simulate.queueing.experiment import Arm, Experiment, paired_differences, run_all
from tessera.simulate.queueing.workload import mix_of

H100 = model("H100-80GB")
SMALL = Experiment(H100, mix_of(H100), nodes=1, gpus_per_node=1, jobs=12)


def run(*arguments: str) -> Result:
    small = ("--nodes", "1", "--gpus-per-node", "1", "--jobs", "12", "--seeds", "2")
    return CliRunner().invoke(command, [*small, *arguments], catch_exceptions=True)


def test_arms_of_a_seed_have_the_same_jobs_and_differences_are_paired() -> None:
    arms = [Arm("first_fit"), Arm("worst_fit"), Arm("first_fit", load=0.7), Arm("worst_fit", load=0.7)]
    runs = run_all(SMALL, arms, seeds=3)
    differences = paired_differences(runs)
    assert set(differences) == {("1.4", "worst_fit", "fifo"), ("0.7", "worst_fit", "fifo")}
    by_hand = [
        next(r for r in runs if r["load"] == "1.4" and r["policy"] == p and r["seed"] == 20260915)
        for p in ("worst_fit", "first_fit")
    ]
    single = paired_differences([r for r in runs if r["seed"] == 20260915 and r["load"] == "1.4"])
    mean, ci95 = single["1.4", "worst_fit", "fifo"]
    assert mean["makespan_seconds"] == by_hand[0]["makespan_seconds"] - by_hand[1]["makespan_seconds"]
    assert ci95["makespan_seconds"] is None


def test_the_same_seed_gives_the_same_figures() -> None:
    arm = Arm("random", "smallest-work-aged")
    assert SMALL.simulation(arm, 4).run() == SMALL.simulation(arm, 4).run()


def test_the_json_object_has_the_promised_keys() -> None:
    result = run("--json", "--policy", "fgd")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert list(report) == ["config", "runs", "mean", "ci95"]
    assert [r["seed"] for r in report["runs"]] == report["config"]["seeds"] == [20260914, 20260915]
    promised = {
        "makespan_seconds",
        "throughput_per_hour",
        "wait_mean_seconds",
        "wait_p95_seconds",
        "wait_p99_seconds",
        "utilisation_pct",
        "fragmentation_pct",
        "stranded_pct",
        "request_fragmentation",
        "wait_max_seconds_by_profile",
        "valid",
    }
    assert promised <= set(report["mean"]) & set(report["ci95"])


def test_several_arms_are_told_apart_in_the_json_object() -> None:
    report = json.loads(run("--json", "--policy", "fgd", "--policy", "first_fit", "--order", "fifo").stdout)
    assert set(report["mean"]) == {"fgd", "first_fit"}


def test_tables_fit_eighty_columns() -> None:
    for arguments in ((), ("--policy", "fgd", "--policy", "best_fit_hami_master", "--saturated")):
        result = run(*arguments)
        assert result.exit_code == 0, result.output
        assert max(map(len, result.stdout.splitlines())) <= 80
        assert "Runs under high load" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "nonsense"), "--policy nonsense does not exist"),
        (("--model", "A30-24GB"), "no 3g profile"),
        (("--model", "a30"), "A30-24GB.*no 3g profile"),
        (("--model", "H999"), "H999.*nearest"),
        (("--mix", "1g.10gb=x"), "is no number"),
        (("--mix", "1g.10gb=-1"), "not above 0"),
        (("--mix", "5g.10gb=1"), "5g.10gb.*does not exist"),
        (("--mix", "nofile"), "neither a file nor a list"),
        (("--max-moves-per-100", "5"), "--max-victims is missing"),
        (("--max-victims", "1", "--policy", "first_fit"), "first_fit.*has none"),
        (("--max-victims", "1", "--max-moves-per-100", "nan"), "a ration is a number"),
        (("--reserve-profiles", "7g.80gb"), "--reserve-after is missing"),
        (("--reserve-after", "1", "--reserve-profiles", "4g.40gb"), "4g.40gb is not in the mix"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, BadSimulationInput)
    assert re.search(said, str(result.exception))


def test_a_mix_file_is_read_as_for_the_other_simulations(tmp_path: Path) -> None:
    file = tmp_path / "mix.csv"
    file.write_text("profile, weight\n1g.10gb, 3\n7g.80gb, 1\n")
    assert json.loads(run("--mix", str(file), "--json").stdout)["config"]["mix"] == {
        "1g.10gb": 3.0,
        "7g.80gb": 1.0,
    }
    file.write_text("profile,weight\n1g.10gb,much\n")
    assert "line 2: weight 'much' is no number" in str(run("--mix", str(file)).exception)
