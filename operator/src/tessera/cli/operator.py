"""``tessera operator``: parse, take the Lease, run.

The metrics server runs on every replica; the operator only on the one that holds the Lease. A replica that
loses it ends with status 1 and is started anew as a stand-by: nothing half-finished survives in a process
that may have been paused.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from importlib.metadata import version
from pathlib import Path

import click

from tessera.api.errors import TesseraError
from tessera.api.names import OPERATOR_FIELD_MANAGER, OPERATOR_LEASE, SYSTEM_NAMESPACE, WORKER_METRICS_PORT
from tessera.cli.process_options import HIGHEST_PORT, log_level_option, port_option
from tessera.controllers.operator import Operator, OperatorSettings
from tessera.controllers.worker_pod import WorkerSettings
from tessera.kube.client import KubeClient
from tessera.kube.lease import LeaderElector
from tessera.kube.logging import setup_logging
from tessera.metrics import registry as metrics
from tessera.metrics.server import start_server

_log = logging.getLogger(__name__)


@click.command("operator")
@click.option(
    "--lease-namespace",
    default=SYSTEM_NAMESPACE,
    show_default=True,
    envvar="POD_NAMESPACE",
    help="Namespace of the Lease.",
)
@click.option(
    "--identity",
    default=socket.gethostname,
    envvar="POD_NAME",
    help="Name of this replica, its pod's name.",
)
@port_option
@click.option("--worker-image", required=True, help="Image of training jobs that name none.")
@click.option(
    "--worker-local-environment",
    default=None,
    metavar="PATH",
    help="Local clusters only: a node's directory with the worker's libraries, mounted read-only.",
)
@click.option(
    "--worker-port",
    type=click.IntRange(1, HIGHEST_PORT),
    default=WORKER_METRICS_PORT,
    show_default=True,
    help="Port at which workers answer /progress.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=None,
    help="By default the pod's service account, else the current kubeconfig.",
)
@log_level_option
def command(
    lease_namespace: str,
    identity: str,
    port: int,
    worker_image: str,
    worker_local_environment: str | None,
    worker_port: int,
    kubeconfig: Path | None,
    log_level: str,
) -> None:
    """Run the operator."""
    setup_logging("operator", level=log_level)
    settings = OperatorSettings(
        worker=WorkerSettings(image=worker_image, local_environment_path=worker_local_environment),
        kubeconfig=kubeconfig,
        identity=identity,
        worker_port=worker_port,
    )
    asyncio.run(serve(settings, lease_namespace=lease_namespace, port=port))


async def serve(settings: OperatorSettings, *, lease_namespace: str, port: int) -> None:
    """Run one replica until SIGTERM or SIGINT.

    Raises:
        TesseraError: the port is taken, the Lease was lost, or the operator cannot go on.
    """
    metrics.BUILD_INFO.labels("operator", version("tessera")).set(1)
    async with await KubeClient.connect(
        kubeconfig=settings.kubeconfig,
        user_agent="tessera-operator",
        field_manager=OPERATOR_FIELD_MANAGER,
    ) as client:
        operator = Operator(client, settings)
        server = await start_server(
            port, checks={"caches": operator.trouble}, health_checks={"work": operator.stuck}
        )
        elector = LeaderElector(
            client, namespace=lease_namespace, name=OPERATOR_LEASE, identity=settings.identity
        )
        work = asyncio.create_task(elector.run(operator.run), name="operator")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, work.cancel)
        try:
            await work
        except asyncio.CancelledError:
            _log.info("stopping")
            return
        finally:
            await server.stop()
    raise TesseraError(
        f"{settings.identity} stopped leading",
        f"Lease {lease_namespace}/{OPERATOR_LEASE} was lost",
        "Another replica goes on; this one is started anew",
    )
