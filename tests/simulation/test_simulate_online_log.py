"""The log of a run is complete: an independent program finds every decision legal, and every figure the
same.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulation.independent_log_check import Illegal, check, differences
from simulation.simulate_command import report as run


@pytest.mark.parametrize(
    "arguments",
    [
        ("--policy", "default"),
        ("--policy", "random", "--mix", "bimodal", "--load", "1.3"),
        ("--policy", "fgd", "--max-victims", "2", "--mix", "skew-small"),
        ("--policy", "default", "--max-moves-per-100", "5", "--lifetime", "lognormal:1.5"),
        ("--policy", "fgd-h", "--max-moves-per-100", "5", "--compact-every", "300", "--max-victims", "0"),
        ("--policy", "mfi", "--model", "H200-141GB:6", "--model", "A30:6", "--max-victims", "1"),
        ("--policy", "best_fit", "--model", "RTXPRO6000-96GB:12"),
    ],
    ids=["default", "random", "two victims", "ration", "compaction", "mixed models", "12 slices"],
)
def test_every_decision_is_legal_and_every_figure_can_be_counted_again(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    log = tmp_path / "log.jsonl"
    gpus = () if "--model" in arguments else ("--gpus", "12")
    report = run("online", *arguments, *gpus, "--arrivals", "3000", "--seeds", "1", "--log", str(log))
    lines = log.read_text().splitlines()
    assert set(json.loads(lines[0])) == {"t", "id", "op", "gpu", "profile", "start"}
    assert differences(report, check(report, lines)) == []
    if "--max-victims" in arguments or "--max-moves-per-100" in arguments:
        assert report["runs"][0]["moves_per_100"] > 0


def test_suffixed_profiles_of_a_mix_file_are_offered_and_legal(tmp_path: Path) -> None:
    mix = tmp_path / "mix.csv"
    mix.write_text("profile,weight\n1g.10gb+me,3\n2g.20gb,1\n7g.80gb,0.5\n")
    log = tmp_path / "log.jsonl"
    report = run(
        "online", "--mix", str(mix), "--gpus", "9", "--arrivals", "1500", "--seeds", "1", "--log", str(log)
    )
    assert set(report["runs"][0]["per_profile_acceptance_pct"]) == {"1g.10gb+me", "2g.20gb", "7g.80gb"}
    assert differences(report, check(report, log.read_text().splitlines())) == []


def test_the_checker_sees_an_overlap_and_a_wrong_figure(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    report = run("online", "--gpus", "4", "--arrivals", "400", "--seeds", "1", "--log", str(log))
    lines = log.read_text().splitlines()
    placed = next(i for i, line in enumerate(lines) if json.loads(line)["op"] == "place")
    doubled = json.loads(lines[placed]) | {"id": "intruder"}
    with pytest.raises(Illegal, match="overlaps"):
        check(report, [*lines[: placed + 1], json.dumps(doubled), *lines[placed + 1 :]])
    report["runs"][0]["slice_acceptance_pct"] += 0.1
    assert len(differences(report, check(report, lines))) == 1


def test_a_replay_of_a_logged_run_with_the_same_policy_decides_the_same(tmp_path: Path) -> None:
    log, events = tmp_path / "log.jsonl", tmp_path / "events.csv"
    first = run(
        "online", "--gpus", "6", "--arrivals", "2000", "--seeds", "1", "--policy", "mfi", "--log", str(log)
    )
    ops = {"place": "arrive", "reject": "arrive", "release": "depart"}
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    lines = [f"{row['t']!r},r{row['id']},{ops[row['op']]},{row['profile']},false" for row in rows]
    events.write_text("\n".join(["time,id,op,profile,movable", *lines]) + "\n")
    again = tmp_path / "again.jsonl"
    second = run("replay", "--gpus", "6", "--events", str(events), "--policy", "mfi", "--log", str(again))
    assert differences(second, check(second, again.read_text().splitlines())) == []
    places = [(row["t"], row["op"], row["gpu"], row["start"]) for row in rows]
    replayed = [json.loads(line) for line in again.read_text().splitlines()]
    assert [(row["t"], row["op"], row["gpu"], row["start"]) for row in replayed] == places
    assert first["runs"][0]["policy"] == second["runs"][0]["policy"] == "mfi"
