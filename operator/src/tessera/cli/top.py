"""`tessera top`: the mosaic of slices and the progress of jobs, once, live, as JSON or as an SVG picture."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import re
import sys
from io import StringIO
from pathlib import Path

import click
from rich.console import Console, Group
from rich.live import Live
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from tessera.api.errors import TesseraError
from tessera.cli.frame import Frame, build_frame
from tessera.cli.mosaic import render
from tessera.kube.backoff import Backoff
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.informer import Informer
from tessera.kube.resources import GPU_NODES, HETEROGENEOUS_TRAINING_JOBS, RESOURCE_CLAIMS

FRAMES_PER_SECOND = 4
SYNC_SECONDS = 15.0
STALE_CHECK_SECONDS = 2.0

_DARK = TerminalTheme(
    (18, 22, 28),
    (215, 218, 224),
    [
        (18, 22, 28),
        (229, 105, 94),
        (127, 191, 123),
        (233, 180, 76),
        (110, 168, 220),
        (181, 143, 214),
        (79, 179, 165),
        (215, 218, 224),
    ],
)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Which cluster.")
@click.option("--context", help="Which context of the kubeconfig.")
@click.option("-n", "--namespace", help="Only jobs and claims of this namespace.")
@click.option(
    "--once", "mode", flag_value="once", help="Print one frame and end (default without a terminal)."
)
@click.option("--watch", "mode", flag_value="watch", help="Follow until Ctrl-C (default on a terminal).")
@click.option("-o", "--output", type=click.Choice(["json"]), help="One frame as data.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Write one frame as a picture.")
@click.option("--width", type=click.IntRange(60, 400), help="Columns; default: the terminal's, else 80.")
def command(
    kubeconfig: Path | None,
    context: str | None,
    namespace: str | None,
    mode: str | None,
    output: str | None,
    svg: Path | None,
    width: int | None,
) -> None:
    """Show which slice of which GPU belongs to whom, and how far the training jobs are."""
    console = Console(width=width or (None if sys.stdout.isatty() else 80), highlight=False)
    if mode == "watch" or (mode is None and output is None and svg is None and console.is_terminal):
        try:
            asyncio.run(_follow(console, kubeconfig, context, namespace))
        except KeyboardInterrupt:
            return
        return
    frame = asyncio.run(read_frame(kubeconfig=kubeconfig, context=context, namespace=namespace))
    if svg is not None:
        svg.write_text(as_svg(frame, width=width or 80))
        click.echo(f"wrote {svg}", err=True)
    if output == "json":
        click.echo(json.dumps(dataclasses.asdict(frame), indent=2))
    elif svg is None or mode == "once":
        console.print(render(frame, width=console.width))


async def read_frame(
    *, kubeconfig: Path | None = None, context: str | None = None, namespace: str | None = None
) -> Frame:
    """The frame of a cluster now. Raises TesseraError where our kinds are not installed."""
    async with await KubeClient.connect(kubeconfig, context, user_agent="tessera-top") as client:
        try:
            gpunodes, jobs, claims = await asyncio.gather(
                client.list(GPU_NODES),
                client.list(HETEROGENEOUS_TRAINING_JOBS, namespace),
                client.list(RESOURCE_CLAIMS, namespace),
            )
        except NotFound as error:
            raise _not_installed(client) from error
        return build_frame(gpunodes.items, jobs.items, claims.items)


def as_svg(frame: Frame, *, width: int = 80) -> str:
    """The frame as an SVG picture that needs nothing from the network."""
    console = Console(
        width=width,
        record=True,
        file=StringIO(),
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
    )
    console.print(render(frame, width=width))
    picture = console.export_svg(title="tessera top", theme=_DARK, unique_id="tessera-top")
    # The library's template loads a font from the network; the viewer's own monospace font will do.
    picture = re.sub(r"@font-face\s*\{.*?\}", "", picture, flags=re.DOTALL)
    return picture.replace("font-family: Fira Code, monospace", "font-family: ui-monospace, monospace")


async def _follow(
    console: Console, kubeconfig: Path | None, context: str | None, namespace: str | None
) -> None:
    async with await KubeClient.connect(kubeconfig, context, user_agent="tessera-top") as client:
        # A clear error at once is better than a picture that never fills.
        try:
            await client.list(GPU_NODES)
        except NotFound as error:
            raise _not_installed(client) from error
        changed = asyncio.Event()

        def on_change(kind: str, obj: object, old: object) -> None:
            changed.set()

        informers = [
            Informer(client, resource, namespace=space, on_change=on_change, backoff=Backoff(0.5, 5.0))
            for resource, space in (
                (GPU_NODES, None),
                (HETEROGENEOUS_TRAINING_JOBS, namespace),
                (RESOURCE_CLAIMS, namespace),
            )
        ]
        for informer in informers:
            informer.start()
        for informer in informers:
            await informer.wait_synced(SYNC_SECONDS)
        try:
            with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
                while True:
                    changed.clear()
                    frame = build_frame(*(informer.items() for informer in informers))
                    stale = [informer.last_error for informer in informers if informer.last_error]
                    picture = render(frame, width=console.width)
                    # A picture that may be old must say so.
                    warning = Text(f"\nnot up to date: {stale[0]}", "red") if stale else Text()
                    live.update(Group(picture, warning), refresh=True)
                    await asyncio.sleep(1 / FRAMES_PER_SECOND)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(STALE_CHECK_SECONDS):
                            await changed.wait()
        finally:
            await asyncio.gather(*(informer.stop() for informer in informers))


def _not_installed(client: KubeClient) -> TesseraError:
    return TesseraError(
        f"Tessera is not installed in the cluster {client.server}",
        "it does not know the kind GPUNode",
        "Install the chart (helm install tessera charts/tessera), or run `make demo`",
    )
