"""`tessera simulate online` and `replay` as a user meets them: reports, tables, and one line for every
mistake.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tessera.cli import main as command_line

EVENTS = """time,id,op,profile,movable
0,a,arrive,7g.80gb,no
1,b,arrive,1g.10gb,no
2,a,depart,,
3,c,arrive,2g.20gb,no
"""
SHORT = ["--gpus", "4", "--arrivals", "300", "--seeds", "2"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        command_line.main(["simulate", *arguments])
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_the_report_has_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "online", *SHORT, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert set(report) == {"config", "runs", "mean", "ci95"}
    assert [run["seed"] for run in report["runs"]] == [0, 1]
    keys = {
        "slice_acceptance_pct",
        "gap_to_pool_pct",
        "acceptance_pct",
        "per_profile_acceptance_pct",
        "moves_per_100",
        "gpu_seconds_lost",
        "ideal_pool_pct",
        "fragmentation_pct",
        "decisions_per_second",
    }
    assert keys <= set(report["mean"])
    assert keys <= set(report["ci95"])
    assert report["mean"]["decisions_per_second"] > 0
    assert report["config"]["arrivals"] == [
        {"mix": "uniform", "load": 1.0, "arrivals": 300, "counted_from": 90}
    ]
    for one in report["runs"]:
        gap = one["slice_acceptance_pct"] - one["ideal_pool_pct"]
        assert one["gap_to_pool_pct"] == pytest.approx(gap, abs=1e-5)


def test_several_policies_are_compared_on_the_same_workload(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("online", *SHORT, "--policy", "first_fit", "--policy", "worst-fit")
    report = json.loads(run(capsys, *arguments, "--json")[1])
    assert set(report["mean"]) == {"first_fit", "worst_fit"}
    first, worst = report["runs"][:2], report["runs"][2:]
    assert [r["ideal_pool_pct"] for r in first] == [r["ideal_pool_pct"] for r in worst]
    assert report["mean"]["first_fit"]["gap_to_pool_pct"] > report["mean"]["worst_fit"]["gap_to_pool_pct"]


@pytest.mark.parametrize(
    "more", [[], ["--policy", "all", "--arrivals", "100"]], ids=["one arm", "all policies"]
)
def test_tables_fit_into_80_columns(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "online", *SHORT, *more)
    assert code == 0
    assert "gap to" in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_the_same_seeds_give_the_same_answer(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("online", *SHORT, "--policy", "random", "--max-victims", "0", "--json")
    runs = [json.loads(run(capsys, *arguments)[1])["runs"] for _ in range(2)]
    for one in (*runs[0], *runs[1]):
        del one["decisions_per_second"]
    assert runs[0] == runs[1]


def test_the_log_of_several_runs_says_which_run_a_line_is_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    assert run(capsys, "online", *SHORT, "--log", str(log))[0] == 0
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert {row["seed"] for row in rows} == {0, 1}
    assert {row["op"] for row in rows} == {"place", "reject", "release"}


def test_a_replay_names_requests_as_the_file_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events, log = tmp_path / "events.csv", tmp_path / "log.jsonl"
    events.write_text(EVENTS)
    arguments = ("replay", "--gpus", "1", "--events", str(events), "--log", str(log))
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    assert json.loads(out)["mean"]["acceptance_pct"] == pytest.approx(200 / 3, abs=1e-5)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(row["id"], row["op"]) for row in rows] == [
        ("a", "place"),
        ("b", "reject"),
        ("a", "release"),
        ("c", "place"),
    ]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "events.csv, 3 requests, 1 x H100-80GB" in out


def test_a_run_too_short_for_its_cluster_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "online", "--gpus", "500", "--arrivals", "300", "--seeds", "1")
    assert code == 0
    assert "the warm-up does not fill the cluster" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--load", "0"], "error: --load 0: the offered load must be above 0"),
        (["--mix", "unifrom"], "error: --mix unifrom: it is neither a file nor one of uniform"),
        (["--policy", "fgdd"], "error: --policy fgdd does not exist. Choose of default, all, fgd"),
        (["--policy", "first_fit", "--max-victims", "1"], "this one has none. Use default, fgd"),
        (["--max-moves-per-100", "nan"], "error: --max-moves-per-100 nan: a ration is a number"),
        (["--model", "B100"], "error: --model B100: GPU model 'B100' is not in the profile table; nearest"),
        (["--lifetime", "forever"], "error: --lifetime forever: it is neither"),
        (["--mean-lifetime", "0"], "error: --mean-lifetime 0: a lifetime is longer than 0 s"),
        (["--restart-seconds", "-1"], "error: restart -1: it must be 0 s or more"),
        (["--log", "/nonexistent/log"], "error: the log /nonexistent/log cannot be written"),
        (["--plot", "/nonexistent/a.svg"], "error: --plot /nonexistent/a.svg: its directory does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_status_1(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "online", *SHORT, *arguments)
    assert (code, out) == (1, "")
    assert says in err
    assert err.count("\n") == 1
