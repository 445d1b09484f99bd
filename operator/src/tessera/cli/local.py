"""`tessera local`: a Kubernetes cluster on this machine, for the demo, the tests and development."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.table import Table

from tessera.local.build import ensure_binaries
from tessera.local.cluster import ClusterStatus, LocalCluster
from tessera.local.errors import LocalClusterError
from tessera.local.kind import KindCluster
from tessera.local.progress import Progress
from tessera.local.state import DEFAULT_NAME
from tessera.local.versions import KUBERNETES_VERSION


def cluster_options(function: Callable[..., None]) -> Callable[..., None]:
    """`--name` and `--state-dir`, and errors as plain text: a quoted log keeps its lines."""

    @wraps(function)
    def guarded(**options: Any) -> None:
        try:
            function(**options)
        except LocalClusterError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(1)

    directory = click.Path(path_type=Path, file_okay=False)
    named = click.option("--name", default=DEFAULT_NAME, show_default=True, help="Which cluster.")
    placed = click.option("--state-dir", type=directory, help="Directory that holds the clusters.")
    return named(placed(guarded))


@click.group()
def command() -> None:
    """Start, stop and inspect a local cluster."""


@command.command()
@cluster_options
@click.option(
    "--provider",
    type=click.Choice(["modules", "kind"]),
    default="modules",
    show_default=True,
    help="Binaries built from Go modules, or kind on Docker.",
)
@click.option(
    "--nodes",
    type=click.IntRange(min=1, max=5000),
    help="Have this many simulated (KWOK) nodes; as root the default is one real node.",
)
def up(*, name: str, state_dir: Path | None, provider: str, nodes: int | None) -> None:
    """Start the cluster, or repair it: what runs is left alone."""
    if provider == "modules":
        LocalCluster(name, state_dir=state_dir).up(kwok_nodes=nodes)
    elif nodes is not None:
        raise LocalClusterError("--nodes makes simulated nodes, which kind does not have: leave it out")
    else:
        _kind(name, state_dir).up()


@command.command()
@cluster_options
def down(*, name: str, state_dir: Path | None) -> None:
    """Remove the cluster with everything that it made on this machine, its volumes included."""
    removed = any([LocalCluster(name, state_dir=state_dir).down(), _kind(name, state_dir).down()])
    click.echo(f"cluster {name} is gone" if removed else f"there is no cluster {name}")


@command.command()
@cluster_options
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def status(*, name: str, state_dir: Path | None, as_json: bool) -> None:
    """Show what runs. Ends with status 1 when the cluster is not whole."""
    found = _status(name, state_dir)
    if as_json:
        click.echo(json.dumps(asdict(found) | {"running": found.running}, default=str, indent=2))
    else:
        _print_status(found)
    if not found.running:
        sys.exit(1)


@command.command()
@cluster_options
@click.option("--export", is_flag=True, help="Print a line for `eval`.")
def kubeconfig(*, name: str, state_dir: Path | None, export: bool) -> None:
    """Print the path of the administrator's kubeconfig.

    With --export, print lines for `eval` that set KUBECONFIG, and put kubectl and helm on PATH.
    """
    found = _status(name, state_dir)
    if not export:
        click.echo(found.kubeconfig)
        return
    binaries = ensure_binaries(["kubectl", "helm"], progress=Progress())
    click.echo(f"export KUBECONFIG={shlex.quote(str(found.kubeconfig))}")
    click.echo(f'export PATH={shlex.quote(str(binaries))}:"$PATH"')


@command.command()
@cluster_options
@click.argument("process")
@click.option("-f", "--follow", is_flag=True, help="Go on as the log grows.")
@click.option("-n", "--lines", type=click.IntRange(min=1), default=200, show_default=True)
def logs(*, name: str, state_dir: Path | None, process: str, follow: bool, lines: int) -> None:
    """Show the log of one process of the cluster (`tessera local status` names them)."""
    found = _status(name, state_dir)
    known = {each.role: each.log for each in found.processes}
    if process not in known:
        raise LocalClusterError(f"cluster {name} has no process {process!r}: take one of {', '.join(known)}")
    log = known[process]
    if log is None:
        _become(["docker", "logs", "--tail", str(lines), *(["--follow"] if follow else []), process])
    _become(["tail", "-n", str(lines), *(["-F"] if follow else []), str(log)])


def _kind(name: str, state_dir: Path | None) -> KindCluster:
    return KindCluster(name, state_dir=state_dir, progress=Progress())


def _become(command_line: list[str]) -> NoReturn:
    """Goes on as another program, so that an interrupt ends it as usual."""
    sys.stdout.flush()
    os.execvp(command_line[0], command_line)


def _status(name: str, state_dir: Path | None) -> ClusterStatus:
    cluster = LocalCluster(name, state_dir=state_dir, progress=Progress.silent())
    found = cluster.status() or _kind(name, state_dir).status()
    if found is None:
        raise LocalClusterError(f"there is no cluster {name}: start it with `tessera local up --name {name}`")
    return found


def _print_status(found: ClusterStatus) -> None:
    # kind's node image has a version of its own.
    version = "on kind" if found.mode == "kind" else f"Kubernetes {KUBERNETES_VERSION}"
    table = Table(title=f"cluster {found.name}: {version}", title_justify="left", box=None)
    for column in ("PROCESS", "STATE", "PID", "SINCE"):
        table.add_column(column)
    for process in found.processes:
        running = process.pid is not None
        state = "[green]running[/]" if running else "[red]ended[/]"
        table.add_row(process.role, state, str(process.pid or ""), _duration(process.uptime_seconds))
    console = Console()
    console.print(table)
    for label, value in (
        ("nodes", _nodes(found)),
        ("server", found.server),
        ("kubeconfig", found.kubeconfig),
        ("volumes of class tessera-local", found.output),
    ):
        console.print(f"{label}: {value}", highlight=False, soft_wrap=True)


def _nodes(found: ClusterStatus) -> str:
    """What kubectl says about the nodes, in one line."""
    if not found.running:
        return "unknown; `tessera local up` repairs the cluster"
    kubectl = ensure_binaries(["kubectl"], progress=Progress()) / "kubectl"
    answer = subprocess.run(
        [kubectl, "--kubeconfig", found.kubeconfig, "get", "nodes", "--no-headers"],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [" ".join(line.split()[:2]) for line in answer.stdout.splitlines()]
    return ", ".join(lines) if answer.returncode == 0 else answer.stderr.strip()


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
