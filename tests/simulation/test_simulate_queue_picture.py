"""`tessera simulate queue --plot` draws every arm, and the same file for the same runs."""

from pathlib import Path

from click.testing import CliRunner
from tessera.cli.simulate_queue import command


def test_the_picture_names_every_arm_and_is_reproducible(tmp_path: Path) -> None:
    pictures = []
    for name in ("first.svg", "second.svg"):
        path = tmp_path / name
        arguments = ["--nodes", "1", "--jobs", "20", "--seeds", "2"]
        arguments += ["--policy", "fgd", "--policy", "first_fit"]
        result = CliRunner().invoke(command, [*arguments, "--plot", str(path)])
        assert result.exit_code == 0, result.output
        pictures.append(path.read_text())
    assert pictures[0] == pictures[1]
    assert "first_fit" in pictures[0]
    assert "mean wait, s" in pictures[0]
