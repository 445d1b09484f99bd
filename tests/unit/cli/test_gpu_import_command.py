"""`tessera gpu import` prints what `kubectl apply -f -` takes, and nothing else, to standard output."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from tessera.cli.gpu import command
from tessera.relayout.errors import BadLayout

FILE = """
version: v1
mig-configs:
  all-1g.18gb:
  - {device-filter: ["0x233510DE", "0x234810DE"], devices: all, mig-enabled: true, mig-devices: {1g.18gb: 7}}
  all-enabled:
  - {devices: all, mig-enabled: true, mig-devices: {}}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(FILE)
    return str(path)


def test_manifests_go_to_standard_output_and_notes_beside(file: str) -> None:
    done = CliRunner().invoke(
        command, ["import", file, "--config", "all-1g.18gb", "--node-selector", "pool=a"]
    )
    assert done.exit_code == 0
    manifests = list(yaml.safe_load_all(done.stdout))
    assert {manifest["kind"] for manifest in manifests} == {"MIGPartition"}
    assert all(manifest["spec"]["nodeSelector"] == {"matchLabels": {"pool": "a"}} for manifest in manifests)
    assert done.stderr.startswith("note:") and "all-1g.18gb[0]: a MIGPartition" in done.stderr


def test_it_reads_standard_input(file: str) -> None:
    from_file = CliRunner().invoke(command, ["import", file, "--by-label"])
    piped = CliRunner().invoke(command, ["import", "-", "--by-label"], input=FILE)
    assert piped.stdout == from_file.stdout != ""


def test_all_of_it_fits_80_columns(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(file).parent)
    done = CliRunner().invoke(command, ["import", "config.yaml", "--by-label"])
    assert max(map(len, done.output.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.yaml"], "nowhere.yaml cannot be read: No such file"),
        (["FILE"], "Choose one: --config NAME"),
        (["FILE", "--config", "x"], "has no configuration 'x'"),
    ],
)
def test_what_cannot_be_imported_is_one_error(file: str, arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(command, ["import", *(file if word == "FILE" else word for word in arguments)])
    assert done.exit_code == 1
    assert isinstance(done.exception, BadLayout) and says in str(done.exception)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("pool", "'pool' is not KEY=VALUE"),
        ("nvidia.com/mig.config=x", "--by-label chooses the value of nvidia.com/mig.config itself"),
    ],
)
def test_a_label_needs_a_value_that_nothing_else_says(file: str, label: str, says: str) -> None:
    done = CliRunner().invoke(command, ["import", file, "--by-label", "--node-selector", label])
    assert done.exit_code == 2
    assert says in done.stderr
