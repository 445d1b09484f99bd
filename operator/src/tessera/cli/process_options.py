"""The flags that every long-running process has: a wrong value is a usage error before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import click

from tessera.kube.logging import LEVEL_VARIABLE
from tessera.placement.queue_order import QueueOrder, QueueRule

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


def queue_options(function: Command) -> Command:
    """`--queue-order` and `--age-limit` of the scheduler, and of those who say what it would do."""
    ordered = click.option(
        "--queue-order",
        type=click.Choice(get_args(QueueRule)),
        default=QueueOrder().rule,
        show_default=True,
        help="Who is served first among equal priorities: who came first, or who asks for least work.",
    )(function)
    return click.option(
        "--age-limit",
        type=click.FloatRange(min=1.0),
        default=QueueOrder().age_limit_seconds,
        show_default=True,
        help="Seconds after which a waiting pod has a place reserved and, with smallest-work, goes first.",
    )(ordered)
