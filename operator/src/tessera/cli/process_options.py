"""The flags that every long-running process has: a wrong value is a usage error before anything starts."""

from __future__ import annotations

from collections.abc import Callable

import click

from tessera.kube.logging import LEVEL_VARIABLE

Command = Callable[..., None]
HIGHEST_PORT = 65535


def port_option(function: Command) -> Command:
    """`--port`, where the process serves what it is asked about; 0 takes any free port."""
    return click.option(
        "--port",
        type=click.IntRange(0, HIGHEST_PORT),
        default=8080,
        show_default=True,
        help="Port of /metrics, /healthz and /readyz; 0: any.",
    )(function)


def log_level_option(function: Command) -> Command:
    """`--log-level`, or the environment variable that all processes read."""
    return click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
        envvar=LEVEL_VARIABLE,
        show_envvar=True,
        default="info",
        show_default=True,
        help="What is logged: this and everything worse.",
    )(function)
