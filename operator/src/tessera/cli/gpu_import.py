"""`tessera gpu import`: a file of NVIDIA's mig-parted as MIGPartitions, ready for `kubectl apply -f -`."""

from __future__ import annotations

from textwrap import TextWrapper

import click
import yaml

from tessera.api.names import MIG_MANAGER_CONFIG_LABEL
from tessera.cli.layout_file import read_layout_file
from tessera.relayout.partitions import as_partitions
from tessera.relayout.wanted import parse_mig_parted

_WIDTH = 80
_NOTE = TextWrapper(_WIDTH, subsequent_indent="      ", break_long_words=False, break_on_hyphens=False)


def _labels(ctx: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    """Read `KEY=VALUE`."""
    found: dict[str, str] = {}
    for text in value:
        key, equals, label = text.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{text!r} is not KEY=VALUE", ctx, parameter)
        found[key] = label
    return found


@click.command("import")
@click.argument("file")
@click.option("--config", metavar="NAME", help="Which configuration, where the file has several.")
@click.option(
    "--node-selector",
    "labels",
    multiple=True,
    callback=_labels,
    metavar="KEY=VALUE",
    help="Only for nodes with this label; may be repeated. Default: for all nodes.",
)
@click.option(
    "--by-label",
    is_flag=True,
    help=f"Every configuration, each for the nodes whose label {MIG_MANAGER_CONFIG_LABEL} has its name.",
)
def command(file: str, config: str | None, labels: dict[str, str], by_label: bool) -> None:
    """Print MIGPartitions that say what FILE says, a configuration of NVIDIA's mig-parted.

    FILE is that file, or the ConfigMap in which the GPU operator keeps it; - is standard input. Nothing is
    changed: pipe it into `kubectl apply -f -`. What a MIGPartition cannot say is an error; what it says in
    another way is noted on standard error.
    """
    if by_label and MIG_MANAGER_CONFIG_LABEL in labels:
        raise click.UsageError(f"--by-label chooses the value of {MIG_MANAGER_CONFIG_LABEL} itself")
    configurations = parse_mig_parted(read_layout_file(file), source=file, config=config, every=by_label)
    imported = as_partitions(configurations, source=file, labels=labels, by_label=by_label)
    for note in imported.notes:
        click.echo(_NOTE.fill(f"note: {note}"), err=True)
    click.echo(yaml.safe_dump_all(imported.manifests, sort_keys=False, width=_WIDTH), nl=False)
