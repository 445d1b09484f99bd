"""`tessera explain pod NAME`: why a pod has no slice yet, in numbers, and what would help."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import click

from tessera.api import names
from tessera.api.errors import TesseraError
from tessera.cli.process_options import queue_options
from tessera.kube.client import KubeClient, Object
from tessera.kube.errors import Forbidden, NotFound
from tessera.kube.resources import (
    DEVICE_CLASSES,
    GPU_NODES,
    LEASES,
    MIG_PARTITIONS,
    NODES,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    Resource,
)
from tessera.placement.policies import POLICIES
from tessera.placement.queue_order import QueueOrder, QueueRule
from tessera.scheduler.explain import Explanation, Funnel, explain_pod
from tessera.scheduler.lease_notes import note_of
from tessera.scheduler.snapshot import Snapshot, SnapshotReader

WIDTH = 80
LABEL_WIDTH = 43


@click.group("explain", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Say why something is as it is."""


@command.command("pod")
@click.argument("name")
@click.option("-n", "--namespace", help="The pod's namespace; default: that of the kubeconfig's context.")
@click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help="Which cluster.")
@click.option("--context", help="Which context of the kubeconfig.")
@click.option("--policy", default="default", show_default=True, help="The scheduler's placement policy.")
@queue_options
@click.option(
    "--system-namespace", default=names.SYSTEM_NAMESPACE, show_default=True, help="Where the scheduler runs."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def pod(
    name: str,
    namespace: str | None,
    kubeconfig: Path | None,
    context: str | None,
    policy: str,
    queue_order: QueueRule,
    age_limit: float,
    system_namespace: str,
    as_json: bool,
) -> None:
    """Why the pod NAME waits for its slice, or where it has it.

    Reads the cluster's objects and takes the scheduler's own steps; it writes nothing.
    """
    if policy not in POLICIES:
        raise click.BadParameter(
            f"{policy!r} is none of {', '.join(sorted(POLICIES))}", param_hint="--policy"
        )
    found, leader = asyncio.run(
        _explain(
            name,
            namespace,
            kubeconfig=kubeconfig,
            context=context,
            policy=policy,
            order=QueueOrder(rule=queue_order, age_limit_seconds=age_limit),
            system_namespace=system_namespace,
        )
    )
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "leader": leader}, indent=2, ensure_ascii=False))
        return
    for line in render(found, leader=leader):
        click.echo(line)


async def _explain(
    name: str,
    namespace: str | None,
    *,
    kubeconfig: Path | None,
    context: str | None,
    policy: str,
    order: QueueOrder,
    system_namespace: str,
) -> tuple[Explanation, str | None]:
    async with await KubeClient.connect(kubeconfig, context, user_agent="tessera-explain") as client:
        space = namespace or client.default_namespace
        snapshot, (leader, note) = await asyncio.gather(
            read_snapshot(client), _leader(client, namespace=system_namespace)
        )
        if (space, name) not in snapshot.pods:
            raise await _missing(client, name, space)
        found = explain_pod(
            snapshot,
            (space, name),
            POLICIES[policy](),
            namespace=system_namespace,
            order=order,
            note=note,
        )
        return found, leader


async def read_snapshot(client: KubeClient) -> Snapshot:
    """The cluster now, as the scheduler would see it. Raises TesseraError where the user may not list what is
    needed.
    """
    pods, claims, nodes, slices, classes, partitions, gpu_nodes = await asyncio.gather(
        _list(client, PODS, field_selector="status.phase!=Succeeded,status.phase!=Failed"),
        _list(client, RESOURCE_CLAIMS),
        _list(client, NODES),
        _list(client, RESOURCE_SLICES, field_selector=f"spec.driver={names.DRIVER}"),
        _list(client, DEVICE_CLASSES),
        _list(client, MIG_PARTITIONS),
        _list(client, GPU_NODES),
    )
    return SnapshotReader().read(
        pods=pods,
        claims=claims,
        nodes=nodes,
        slices=slices,
        classes=classes,
        partitions=partitions,
        gpu_nodes=gpu_nodes,
        now=time.time(),
    )


async def _list(client: KubeClient, resource: Resource, *, field_selector: str | None = None) -> list[Object]:
    try:
        return (await client.list(resource, field_selector=field_selector)).items
    except NotFound:
        return []
    except Forbidden as error:
        raise TesseraError(
            f"{resource.plural} of the whole cluster cannot be listed",
            error.message,
            "An explanation compares all nodes and all claims; ask somebody who may read them",
        ) from error


async def _leader(client: KubeClient, *, namespace: str) -> tuple[str | None, str | None]:
    """Who holds the scheduler's Lease, "" when nobody does, and what is noted there; None when we may not
    know.
    """
    try:
        lease = await client.get(LEASES, names.SCHEDULER_LEASE, namespace)
    except NotFound:
        return "", ""
    except Forbidden:
        return None, None
    return str((lease.get("spec") or {}).get("holderIdentity") or ""), note_of(lease)


async def _missing(client: KubeClient, name: str, namespace: str) -> TesseraError:
    try:
        phase = (await client.get(PODS, name, namespace))["status"].get("phase")
    except NotFound:
        return TesseraError(
            f"pod {namespace}/{name} does not exist",
            "",
            "Name its namespace with -n, or see kubectl get pods -A",
        )
    return TesseraError(f"pod {namespace}/{name} has ended ({phase})", "it needs no slice any more")


def render(found: Explanation, *, leader: str | None) -> Iterator[str]:
    """The explanation as lines of at most 80 columns."""
    asks = f" ({' + '.join(found.asks)})" if found.asks else ""
    head = {
        "Placed": "has its slice",
        "Fits": "is about to be placed",
        "NotOurs": "waits for nothing of ours",
    }
    yield from _wrapped(
        f"Pod {found.namespace}/{found.pod} {head.get(found.state, 'waits')}{asks}: {found.reason}"
    )
    yield from _wrapped(found.message, indent="  ")
    for device in found.devices:
        yield f"  {device}"
    if found.state in ("Placed", "NotOurs"):
        return
    yield ""
    yield _row("Waits for", _duration(found.waits_seconds))
    yield _row("Served before it", f"{found.served_before} (in the order of the queue)")
    if found.gang is not None:
        left = found.gang.seconds_left
        time_left = "" if left is None else f", {_duration(left)} left"
        yield _row(f"Gang {found.gang.name}", f"{found.gang.members} of {found.gang.size} pods{time_left}")
    if found.funnel is not None:
        yield from _funnel(found.funnel)
    for reserve in found.reserves:
        yield _row("Kept free", reserve)
    yield from _wrapped(f"{'Move':<{LABEL_WIDTH}} {found.move}")
    if leader == "":
        yield from _wrapped("No scheduler leads: nothing is placed until one does.")
    if found.told and not found.told.get("message", "").startswith(found.message):
        yield from _wrapped(
            f"Last told on its claim: {found.told.get('reason', '')}: {found.told.get('message')}"
        )


def _funnel(funnel: Funnel) -> Iterator[str]:
    yield _row("Nodes with GPUs", str(funnel.nodes))
    for name, count in funnel.excluded.items():
        yield _row(f"  {name}", f"-{count}")
    yield _row("Nodes that may run it", str(funnel.nodes_passing))
    models = ", ".join(f"{model} {count}" for model, count in funnel.gpus_offering.items())
    yield _row("GPUs that offer it", f"{sum(funnel.gpus_offering.values())}  {models}".rstrip())
    yield _row("  on nodes that may run it", str(funnel.gpus_in_reach))
    yield _row("  with room for it", str(funnel.gpus_with_room))
    if funnel.rooms:
        yield ""
        yield f"  {'room on these GPUs':<24}{'GPUs':>8}{'with room':>12}{'slices that fit':>18}"
        for room in funnel.rooms:
            yield f"  {room.profile:<24}{room.gpus:>8}{room.gpus_with_room:>12}{room.slices:>18}"
        yield ""


def _row(label: str, value: str) -> str:
    """One line of two columns; what does not fit is cut with a mark, and is whole in the JSON."""
    line = f"{label:<{LABEL_WIDTH}.{LABEL_WIDTH}} {value}".rstrip()
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _wrapped(text: str, *, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent or "  ")


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
