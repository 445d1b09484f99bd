"""``tessera scheduler``: parse, connect, serve metrics, and run one replica of the allocator until it is told
to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
from importlib.metadata import version
from pathlib import Path

import click

from tessera.api import names
from tessera.cli.process_options import log_level_option, port_option, queue_options
from tessera.kube.client import KubeClient
from tessera.kube.logging import setup_logging
from tessera.metrics import registry as metrics
from tessera.metrics.server import start_server
from tessera.placement.policies import POLICIES
from tessera.placement.queue_order import QueueOrder, QueueRule
from tessera.scheduler.loop import Scheduler, Settings
from tessera.scheduler.planner import GANG_TIME_LIMIT_SECONDS

_GC_THRESHOLD = 20_000
"""Young objects between two collections. JSON comes and goes without cycles: with Python's 700 the collector
takes 0.34 ms of each pod of a burst, with this 0.04 (docs/results/scheduler-at-scale.md).
"""


@click.command("scheduler")
@click.option(
    "--lease-namespace",
    default=names.SYSTEM_NAMESPACE,
    show_default=True,
    envvar="POD_NAMESPACE",
    help="Namespace of the Lease that elects the leader.",
)
@click.option(
    "--identity",
    default=socket.gethostname,
    show_default="host name",
    envvar="POD_NAME",
    help="Who holds the Lease; in a cluster this must be the pod's name, admission compares it.",
)
@port_option
@click.option("--kubeconfig", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=None)
@click.option(
    "--policy",
    type=click.Choice(["default", *sorted(POLICIES)]),
    default="default",
    show_default=True,
    help="How a place is chosen; docs/placement.md says what each does.",
)
@click.option(
    "--takeback-grace",
    type=click.FloatRange(min=1.0),
    default=30.0,
    show_default=True,
    help="Seconds that a pod may stay unscheduled before its slice is taken back.",
)
@click.option(
    "--gang-timeout",
    type=click.FloatRange(min=1.0),
    default=GANG_TIME_LIMIT_SECONDS,
    show_default=True,
    help="Seconds that a gang may take to come together before that is told as an error; the annotation "
    f"{names.GANG_TIMEOUT_ANNOTATION} of its pods overrides it.",
)
@queue_options
@log_level_option
def command(
    lease_namespace: str,
    identity: str,
    port: int,
    kubeconfig: Path | None,
    policy: str,
    takeback_grace: float,
    gang_timeout: float,
    queue_order: QueueRule,
    age_limit: float,
    log_level: str,
) -> None:
    """Run the allocator that places claims on slices."""
    setup_logging("scheduler", level=log_level)
    settings = Settings(
        lease_namespace=lease_namespace,
        identity=identity,
        policy=policy,
        takeback_grace_seconds=takeback_grace,
        gang_time_limit_seconds=gang_timeout,
        queue_order=QueueOrder(rule=queue_order, age_limit_seconds=age_limit),
    )
    gc.set_threshold(_GC_THRESHOLD, *gc.get_threshold()[1:])
    asyncio.run(_serve(settings, port=port, kubeconfig=kubeconfig))


async def _serve(settings: Settings, *, port: int, kubeconfig: Path | None) -> None:
    metrics.BUILD_INFO.labels("scheduler", version("tessera")).set(1)
    async with await KubeClient.connect(
        kubeconfig=kubeconfig,
        user_agent=names.SCHEDULER_SERVICE_ACCOUNT,
        field_manager=names.SCHEDULER_FIELD_MANAGER,
    ) as client:
        scheduler = Scheduler(client, settings)
        server = await start_server(
            port, checks={"api": scheduler.ready}, health_checks={"rounds": scheduler.alive}
        )
        work = asyncio.create_task(scheduler.run(), name="scheduler")
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, work.cancel)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await work
        finally:
            await server.stop()
