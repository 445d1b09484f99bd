"""`tessera generate` writes what is missing; `--check` writes nothing and shows the difference."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tessera.cli.generate import command, generated_files


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """An empty checkout."""
    (tmp_path / "charts" / "tessera").mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def test_generate_writes_everything_once(checkout: Path) -> None:
    first = CliRunner().invoke(command, ["--root", str(checkout)])
    assert first.exit_code == 0
    assert first.output.count("wrote ") == len(generated_files())
    assert "up to date" in CliRunner().invoke(command, ["--root", str(checkout)]).output


def test_check_shows_what_differs_and_changes_nothing(checkout: Path) -> None:
    CliRunner().invoke(command, ["--root", str(checkout)])
    target = checkout / "crds" / "gpunodes.tessera.dev.yaml"
    edited = target.read_text().replace("shortNames", "shortnames")
    target.write_text(edited)
    answer = CliRunner().invoke(command, ["--root", str(checkout), "--check"])
    assert answer.exit_code == 1
    assert "-    shortnames:" in answer.output
    assert "make generate" in answer.output
    assert target.read_text() == edited


def test_outside_of_a_checkout_the_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(command, [])
    assert answer.exit_code == 1
    assert "is not inside a checkout of Tessera" in answer.output
