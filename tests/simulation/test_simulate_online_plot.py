"""The pictures: SVG that says what it shows, and the same file for the same runs."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from click.testing import CliRunner
from tessera.cli.simulate import command

pytest.importorskip("matplotlib")


def draw(path: Path, *arguments: str) -> str:
    done = CliRunner().invoke(command, [*arguments, "--plot", str(path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return path.read_text()


def test_a_picture_of_loads_and_policies_is_svg_with_its_words(tmp_path: Path) -> None:
    arguments = (
        *("online", "--gpus", "4", "--arrivals", "400", "--seeds", "2", "--policy", "fgd"),
        "--policy",
        "first_fit",
        "--load",
        "0.7",
        "--load",
        "1.1",
        "--mix",
        "uniform",
        "--mix",
        "bimodal",
    )
    picture = draw(tmp_path / "a.svg", *arguments)
    assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    for word in ("bimodal", "first_fit", "ideal pool", "offered load", "time, hours"):
        assert f">{word}<" in picture, word
    assert draw(tmp_path / "b.svg", *arguments) == picture


def test_a_picture_of_one_load_and_one_of_a_replay(tmp_path: Path) -> None:
    one = draw(tmp_path / "one.svg", "online", "--gpus", "4", "--arrivals", "400", "--seeds", "1")
    assert "slice acceptance" in one
    events = tmp_path / "events.csv"
    events.write_text("time,id,op,profile,movable\n0,a,arrive,7g.80gb,no\n9,b,arrive,1g.10gb,no\n")
    replay = draw(tmp_path / "replay.svg", "replay", "--gpus", "1", "--events", str(events))
    assert "occupied (solid) and fragmented (dotted), %" in replay
