"""Runs `tessera simulate` in the process of a test."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner
from tessera.cli.simulate import command


def report(*arguments: str) -> dict[str, Any]:
    """What the command prints with --json."""
    done = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)  # type: ignore[no-any-return]
