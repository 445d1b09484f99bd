"""The command line: lazy sub-commands, and errors that a user can read."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from tessera.api.errors import TesseraError
from tessera.cli import main as command_line
from tessera.cli.lazy_group import LazyGroup
from tessera.kube.errors import Forbidden, Unreachable


def failing(error: Exception) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(command_line.DEBUG_VARIABLE, raising=False)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            TesseraError("cannot cut the slice", "the driver hangs", "Reset the GPU"),
            "error: cannot cut the slice: the driver hangs. Reset the GPU\n",
        ),
        (Forbidden(403, "Forbidden", "no pods for you"), "error: no pods for you (Forbidden, HTTP 403)\n"),
        (
            ExceptionGroup("tasks", [Unreachable("no answer", "refused", "Start it")] * 2),
            "error: no answer: refused. Start it\n",
        ),
    ],
    ids=["ours", "api", "group"],
)
def test_an_error_is_one_line_and_status_1(
    error: Exception,
    line: str,
    broken: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: failing(error))
    with pytest.raises(SystemExit) as ended:
        command_line.main(["top"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == line


def test_a_defect_keeps_its_traceback(broken: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: failing(KeyError("x")))
    with pytest.raises(KeyError):
        command_line.main(["top"])


def test_debug_shows_where_an_error_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(command_line.DEBUG_VARIABLE, "1")
    monkeypatch.setattr(LazyGroup, "get_command", lambda *_: failing(TesseraError("x")))
    with pytest.raises(TesseraError):
        command_line.main(["top"])


def test_the_overview_imports_no_sub_command() -> None:
    code = (
        "import sys\n"
        "from tessera.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0, end\n"
        "heavy = {'kopf', 'grpc', 'kubernetes', 'rich', 'aiohttp', 'tessera.cli.top'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in command_line.COMMANDS:
        assert name in done.stdout


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.main(["fly"])
    assert ended.value.code == 2
    assert "No such command 'fly'" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(command_line.COMMANDS))
def test_every_command_of_the_overview_exists(name: str) -> None:
    group = command_line.command
    assert isinstance(group, LazyGroup)
    found = group.get_command(click.Context(group), name)
    assert isinstance(found, click.Command)
    assert found.help, "the command says what it does"
