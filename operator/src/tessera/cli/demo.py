"""`tessera demo`: from nothing to trained models on slices of simulated GPUs, and then how to go on.

It runs what a user would run (a cluster, `helm install`, `kubectl apply -f examples/quickstart`), shows the
GPUs and the jobs while they run, and ends when every job has either ended or said why it cannot run. It
looks only at the quickstart's own jobs: whatever else trains in the cluster is neither waited for nor judged.
How long the jobs take depends on the machine, so no time limits them; only a time in which none moves does.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import shutil
import sysconfig
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml
from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tessera.api.errors import TesseraError
from tessera.cli.frame import Frame, Job, build_frame
from tessera.cli.mosaic import render
from tessera.cli.top import as_svg
from tessera.kube.client import KubeClient
from tessera.kube.resources import GPU_NODES, HETEROGENEOUS_TRAINING_JOBS, PODS, RESOURCE_CLAIMS
from tessera.local.images import checkout_directory
from tessera.local.progress import Progress
from tessera.local.stack import Stack, StackSettings, bring_up, take_down
from tessera.local.stand_in import running_stand_ins

DEFAULT_CLUSTER = "demo"
POLL_SECONDS = 0.5
# The longest silence of a job is the import of torch: half a minute on a machine under load.
NO_PROGRESS_SECONDS = 180.0
QUICKSTART_NAMESPACE = "default"
PICTURE_WIDTH = 100


@dataclass
class Watched:
    """What the live view has seen so far."""

    frame: Frame
    fullest: Frame
    stuck: tuple[str, ...] = ()
    """The jobs that had neither ended nor moved when the view gave up; empty when all is well."""


@dataclass
class Stillness:
    """For how long no job has moved: in its state, its place or its steps."""

    _since: float
    _last: tuple[object, ...] = ()

    def seconds(self, jobs: Iterable[Job], *, now: float) -> float:
        """Seconds since the last change, with what `jobs` say at the time `now` (seconds, monotonic)."""
        state = tuple((job.key, job.reason, job.where, job.step) for job in jobs)
        if state != self._last:
            self._last, self._since = state, now
        return now - self._since


@click.command(help="A cluster on this machine, two simulated H100s, Tessera, and four training jobs.")
@click.option("--down", is_flag=True, help="Remove the demo's cluster and everything in it.")
@click.option("--name", default=DEFAULT_CLUSTER, show_default=True, help="Name of the local cluster.")
@click.option(
    "--nodes",
    type=click.IntRange(min=1, max=5000),
    help="So many simulated (KWOK) nodes instead of a real one.",
)
@click.option("--picture", type=click.Path(path_type=Path), help="Save the fullest moment as an SVG file.")
def command(*, down: bool, name: str, nodes: int | None, picture: Path | None) -> None:
    """Runs or removes the demo."""
    settings = StackSettings(name=name, kwok_nodes=nodes)
    if down:
        existed = take_down(settings)
        click.echo(f"cluster {name} is gone" if existed else f"there was no cluster {name}")
        return
    console = Console()
    began = time.monotonic()
    progress = Progress(lambda line: console.print(line, highlight=False, markup=False, soft_wrap=True))
    stack = bring_up(settings, progress=progress)
    jobs = _apply_quickstart(stack, progress)
    watched = asyncio.run(_watch(stack, jobs, console))
    if picture is not None:
        _save_picture(watched.fullest, picture)
        progress.say(f"picture saved to {picture}")
    console.print(_results(watched.frame, stack))
    _say_how_to_go_on(stack, watched, console, seconds=time.monotonic() - began)
    if watched.stuck:
        raise TesseraError(
            f"{', '.join(watched.stuck)} did not end",
            f"no job moved for {NO_PROGRESS_SECONDS:.0f} s",
            "`kubectl describe htj` names what each of them waits for",
        )
    failed = {job.name: job.message for job in watched.frame.jobs if job.finished == "Failed"}
    if failed:
        said = "; ".join(f"{name}: {message}" for name, message in failed.items())
        raise TesseraError(
            f"{len(failed)} of the demo's jobs failed", said, "`kubectl describe htj` tells more"
        )


def _apply_quickstart(stack: Stack, progress: Progress) -> list[str]:
    """Applies the examples; jobs of an earlier demo and their output go first. Returns the jobs' names."""
    directory = checkout_directory() / "examples" / "quickstart"
    objects = [
        document
        for path in sorted(directory.glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
        if document
    ]
    jobs = [o["metadata"]["name"] for o in objects if o["kind"] == "HeterogeneousTrainingJob"]
    kubectl = stack.cluster.control_plane.kubectl
    space = f"--namespace={QUICKSTART_NAMESPACE}"
    kubectl("delete", "htj", *jobs, space, "--ignore-not-found", "--wait=true", "--timeout=60s")
    for job in jobs:
        shutil.rmtree(stack.output_directory / job, ignore_errors=True)
    progress.say("kubectl apply -f examples/quickstart/")
    kubectl("apply", "-f", str(directory))
    return jobs


async def _watch(stack: Stack, jobs: list[str], console: Console) -> Watched:
    """Shows GPUs and jobs until each job has ended or waits for room that the others do not give back."""
    stillness = Stillness(time.monotonic())
    client = await KubeClient.connect(
        kubeconfig=stack.kubeconfig, user_agent="tessera-demo", field_manager="tessera-demo"
    )
    async with client:
        frame = await _read(client, jobs)
        watched = Watched(frame=frame, fullest=frame)
        live = Live(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
        lines = _Lines(console)
        if live:
            live.start()
        try:
            while True:
                watched.frame = await _read(client, jobs)
                if _held(watched.frame) >= _held(watched.fullest):
                    watched.fullest = watched.frame
                if live:
                    live.update(render(watched.frame, width=console.width))
                else:
                    lines.show(watched.frame)
                mine = watched.frame.jobs
                if len(mine) == len(jobs) and all(_settled(job) for job in mine):
                    break
                if stillness.seconds(mine, now=time.monotonic()) > NO_PROGRESS_SECONDS:
                    settled = {job.name for job in mine if _settled(job)}
                    watched.stuck = tuple(name for name in jobs if name not in settled)
                    break
                await asyncio.sleep(POLL_SECONDS)
        finally:
            if live:
                live.stop()
        if not live:
            console.print(render(watched.fullest, width=80))
        return watched


async def _read(client: KubeClient, jobs: Sequence[str]) -> Frame:
    """All GPUs and who holds them, and of the jobs only the named ones of the quickstart's namespace."""
    nodes, found, claims = await asyncio.gather(
        client.list(GPU_NODES),
        client.list(HETEROGENEOUS_TRAINING_JOBS, QUICKSTART_NAMESPACE),
        client.list(RESOURCE_CLAIMS),
    )
    mine = [job for job in found.items if job["metadata"]["name"] in jobs]
    return build_frame(nodes.items, mine, claims.items)


def _held(frame: Frame) -> int:
    """Memory slices that somebody holds."""
    return sum(t.width for n in frame.nodes for g in n.gpus for t in g.tiles if t.state != "Warm")


def _settled(job: Job) -> bool:
    """Ended, or refused for a reason that waiting does not cure."""
    return bool(job.finished) or job.reason == "UnknownProfile"


class _Lines:
    """One line per change, where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, str] = {}

    def show(self, frame: Frame) -> None:
        for job in frame.jobs:
            step = f" step {job.step}/{job.steps}" if job.step is not None and not job.finished else ""
            text = f"{job.name} ({job.profile}): {job.reason} {job.where}{step}"
            if not job.where and job.message:
                text += f" - {job.message}"
            if self._said.get(job.key) != text:
                self._said[job.key] = text
                self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _results(frame: Frame, stack: Stack) -> Table:
    """One row per job that ended; 80 columns."""
    table = Table(title="Results", title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("job", "slice", "where", "outcome"):
        table.add_column(column, no_wrap=True)
    for column in ("SSIM", "PSNR dB", "train"):
        table.add_column(column, justify="right", no_wrap=True)
    for job in frame.jobs:
        if not job.finished:
            continue
        found = _result_file(stack, job.name)
        metrics: dict[str, Any] = found.get("metrics") or job.metrics
        table.add_row(
            job.name,
            job.profile,
            job.where or "-",
            job.finished,
            _change(metrics, "ssim", "{:.2f}"),
            _change(metrics, "psnr", "{:.1f}"),
            f"{sum(p['seconds'] for p in found['phases']):.0f} s" if found.get("phases") else "-",
        )
    return table


def _change(metrics: dict[str, Any], name: str, form: str) -> str:
    """`dark > relit`: the workload's measure before and after."""
    before, after = metrics.get(f"{name}_dark"), metrics.get(f"{name}_noiser")
    return "-" if before is None or after is None else f"{form.format(before)} > {form.format(after)}"


def _result_file(stack: Stack, job: str) -> dict[str, Any]:
    path = stack.output_directory / job / "result.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _save_picture(frame: Frame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(as_svg(frame, width=PICTURE_WIDTH))


def _say_how_to_go_on(stack: Stack, watched: Watched, console: Console, *, seconds: float) -> None:
    for job in watched.frame.jobs:
        if not job.finished:
            verdict = "has not ended" if job.name in watched.stuck else "cannot run"
            console.print(f"{job.name} {verdict}: {job.message}\n", highlight=False, markup=False)
    for job in watched.frame.jobs:
        picture = stack.output_directory / job.name / "before_after.png"
        if picture.is_file():
            console.print(f"before/after picture: {picture}", highlight=False, markup=False, soft_wrap=True)
    for url in _metrics_urls(stack):
        console.print(f"metrics: {url}", highlight=False, markup=False, soft_wrap=True)
    if not stack.real_node:
        console.print(
            "KWOK mode: the nodes are simulated, so no container ran and nothing was trained. Placement, "
            "slices and claims were real; as root on a real node the jobs train.",
            highlight=False,
        )
    tessera = own_command()
    remove = (
        "make demo-down"
        if stack.settings.name == DEFAULT_CLUSTER
        else f"{tessera} demo --down --name {stack.settings.name}"
    )
    text = (
        f"\n{'Gave up after' if watched.stuck else 'Done in'} {seconds:.0f} s. To go on:\n"
        f"  export KUBECONFIG={shlex.quote(str(stack.kubeconfig))}\n"
        f"  {stack.kubectl} get mig,gn,htj        # what there is\n"
        f"  {tessera} top        # the live view\n"
        f"  {remove}        # remove all of it"
    )
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def own_command() -> str:
    """How a shell calls the `tessera` of this environment, which need not be on PATH. Nor need uv."""
    return shlex.quote(str(Path(sysconfig.get_path("scripts")) / "tessera"))


def _metrics_urls(stack: Stack) -> list[str]:
    if not stack.real_node:
        return [f"{each.metrics_url}  ({each.role})" for each in running_stand_ins(stack.cluster)]
    listed = stack.cluster.control_plane.kubectl(
        "-n", stack.settings.namespace, "get", PODS.plural, "-o", "json"
    )
    pods = [p for p in json.loads(listed)["items"] if p["status"].get("podIP")]
    return [f"http://{p['status']['podIP']}:8080/metrics  ({p['metadata']['name']})" for p in pods]
