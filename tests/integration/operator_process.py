"""The operator as the chart runs it: `tessera operator` in a process of its own, with the chart's rights."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from tessera.local.build import ensure_binaries
from tessera.local.control_plane import ControlPlane
from tessera.local.ports import free_ports
from tessera.local.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
ACCOUNT = "tessera-operator"


def grant_chart_rights(control_plane: ControlPlane, namespace: str, directory: Path) -> Path:
    """Apply the chart's operator account and RBAC; a kubeconfig that speaks as that account."""
    helm = ensure_binaries(["helm"], progress=Progress()) / "helm"
    rendered = subprocess.run(
        [
            str(helm),
            *("template", "tessera", str(ROOT / "charts" / "tessera"), "--namespace", namespace),
            *("--show-only", "templates/operator/rbac.yaml"),
            *("--show-only", "templates/operator/service-account.yaml"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    control_plane.kubectl("apply", "-n", namespace, "-f", "-", input_text=rendered)
    token = control_plane.kubectl("create", "token", ACCOUNT, "-n", namespace).strip()
    config: dict[str, Any] = yaml.safe_load(control_plane.kubeconfig.read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path = directory / "operator.kubeconfig"
    path.write_text(json.dumps(config))
    return path


@dataclass
class OperatorProcess:
    """A running `tessera operator`."""

    process: asyncio.subprocess.Process
    port: int
    log: Path

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its pages; 0 while it does not answer."""
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session,
                session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
            ):
                return answer.status, await answer.text()
        except (aiohttp.ClientError, TimeoutError):
            return 0, ""


@asynccontextmanager
async def run_operator(
    kubeconfig: Path, *, namespace: str, identity: str, directory: Path
) -> AsyncIterator[OperatorProcess]:
    """Start one replica; it is killed at the end if it still runs."""
    (port,) = free_ports(1)
    log = directory / f"{identity}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("tessera")),
            *("operator", "--lease-namespace", namespace, "--identity", identity, "--port", str(port)),
            *("--worker-image", "tessera/worker:test", "--kubeconfig", str(kubeconfig)),
            stdout=output,
            stderr=output,
        )
    try:
        yield OperatorProcess(process, port, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
