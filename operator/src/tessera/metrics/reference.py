"""The metric table of the documentation, made from the declarations.

`python -m tessera.metrics.reference > docs/metrics.md` writes it; a test compares the two.
"""

from __future__ import annotations

import sys

from tessera.metrics.registry import DECLARED, Declaration

_INTRODUCTION = """# Metrics

<!-- Made by `python -m tessera.metrics.reference`; a test compares. -->

Every process serves the whole table at `/metrics` and moves only the metrics it owns. Durations are in
seconds.

| metric | type | labels | meaning |
|---|---|---|---|
"""


def render() -> str:
    """The page `docs/metrics.md`."""
    rows = sorted(DECLARED, key=lambda row: row.name)
    return _INTRODUCTION + "".join(map(_row, rows))


def _row(row: Declaration) -> str:
    labels = ", ".join(f"`{label}`" for label in row.labels) or "–"
    return f"| `{row.name}` | {row.kind} | {labels} | {row.help} |\n"


if __name__ == "__main__":
    sys.stdout.write(render())
