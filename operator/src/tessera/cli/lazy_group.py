"""A group of commands whose members are imported only when they are called.

The agent need not load the operator's framework, and `--help` answers at once: the overview is printed from
the table alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click


class Target(NamedTuple):
    """Where a sub-command is, and what the overview says about it."""

    where: str
    help: str


class LazyGroup(click.Group):
    """A group that knows its sub-commands by name only, until one of them is called."""

    def __init__(self, *args: Any, targets: Mapping[str, Target], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.targets = targets

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = self.targets.get(cmd_name)
        if target is None:
            return None
        module, attribute = target.where.split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, target.help) for name, target in self.targets.items()])
