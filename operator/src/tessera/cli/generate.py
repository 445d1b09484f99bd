"""``tessera generate``: everything that is made from declarations in the code, and the check that it is
fresh.

Three things come from `tessera.api`: the CRDs (``crds/``), the chart's copies of them, and the reference page
of each kind. They are committed, so that ``kubectl apply -f crds/`` needs no Python and a reviewer sees what
a change of a model does to the API; ``--check`` writes nothing and fails when a file differs.
"""

from __future__ import annotations

import difflib
import sys
from pathlib import Path

import click

from tessera.api.crd import KINDS, chart_template, crd_name, crd_yaml
from tessera.api.reference import index_page, kind_page, reasons_page
from tessera.metrics.reference import render as metrics_page


def generated_files() -> dict[Path, str]:
    """Path below the repository -> content, of everything that is generated."""
    files: dict[Path, str] = {
        Path("docs/reference/README.md"): index_page(KINDS),
        Path("docs/reference/Reasons.md"): reasons_page(),
        Path("docs/metrics.md"): metrics_page(),
    }
    for kind in KINDS:
        name = crd_name(kind)
        files[Path("crds") / f"{name}.yaml"] = crd_yaml(kind)
        files[Path("charts/tessera/templates/crds") / f"{name}.yaml"] = chart_template(kind)
        files[Path("docs/reference") / f"{kind.kind}.md"] = kind_page(kind)
    return files


def find_root(start: Path) -> Path:
    """The repository that holds `start`.

    Raises:
        click.ClickException: `start` is not inside a checkout of Tessera.
    """
    for folder in (start, *start.parents):
        if (folder / "charts" / "tessera").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise click.ClickException(
        f"{start} is not inside a checkout of Tessera (no charts/tessera above it): "
        "change into one or name it with --root"
    )


@click.command("generate")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 and show what is out of date.")
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=None,
    help="The checkout of Tessera; by default the one around the current directory.",
)
def command(check: bool, root: Path | None) -> None:
    """Write CRDs, the chart's copies of them and the kind reference from the typed models."""
    base = root if root is not None else find_root(Path.cwd())
    stale = 0
    for path, content in generated_files().items():
        target = base / path
        present = target.read_text(encoding="utf-8") if target.exists() else ""
        if present == content:
            continue
        stale += 1
        if check:
            sys.stdout.writelines(
                difflib.unified_diff(
                    present.splitlines(keepends=True),
                    content.splitlines(keepends=True),
                    fromfile=str(path),
                    tofile=f"{path} (generated)",
                )
            )
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content, encoding="utf-8")
            click.echo(f"wrote {path}")
    if check and stale:
        raise click.ClickException(
            f"{stale} generated file(s) are out of date: run `make generate` and commit the result"
        )
    if not stale:
        click.echo("generated files are up to date")
