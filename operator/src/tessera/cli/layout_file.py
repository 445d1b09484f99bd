"""A file with layouts, as the commands of `tessera gpu` read it."""

from __future__ import annotations

import click

from tessera.relayout.errors import BadLayout


def read_layout_file(path: str) -> str:
    """The text; of standard input for `-`. Raises `BadLayout`."""
    try:
        with click.open_file(path, encoding="utf-8") as file:
            return str(file.read())
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise BadLayout(f"{path} cannot be read", why) from error
