"""The flags of the long-running processes: a wrong one is one line and status 2, never a traceback."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner, Result
from tessera.cli.main import command
from tessera.cli.process_options import log_level_option
from tessera.kube.logging import LEVEL_VARIABLE

NEEDED = {
    "agent": ["--node-name", "n", "--simulate", "H100-80GB"],
    "fleet": ["--state-dir", "s"],
    "operator": ["--worker-image", "i"],
    "scheduler": [],
}
everyone = pytest.mark.parametrize("process", sorted(NEEDED))


def run(process: str, *flags: str, environment: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(command, [process, *NEEDED[process], *flags], env=environment or {})


@everyone
@pytest.mark.parametrize("port", ["99999", "-1", "http"])
def test_a_port_that_does_not_exist(process: str, port: str) -> None:
    result = run(process, "--port", port)
    assert result.exit_code == 2, result.output
    assert "Invalid value for '--port'" in result.stderr


@everyone
@pytest.mark.parametrize("by_environment", [False, True], ids=["flag", "environment"])
def test_a_log_level_that_does_not_exist(process: str, by_environment: bool) -> None:
    if by_environment:
        result = run(process, environment={LEVEL_VARIABLE: "loud"})
    else:
        result = run(process, "--log-level", "loud")
    assert result.exit_code == 2, result.output
    assert "'loud' is not one of 'debug', 'info', 'warning', 'error'" in result.stderr


@pytest.mark.parametrize(("said", "level"), [("WARNING", "warning"), ("debug", "debug"), ("", "info")])
def test_the_variable_in_any_case_or_empty(said: str, level: str) -> None:
    @click.command()
    @log_level_option
    def process(log_level: str) -> None:
        click.echo(log_level)

    assert CliRunner().invoke(process, env={LEVEL_VARIABLE: said}).output == f"{level}\n"


def test_the_port_of_the_workers_is_a_port() -> None:
    result = run("operator", "--worker-port", "0")
    assert result.exit_code == 2
    assert "Invalid value for '--worker-port'" in result.stderr
