"""The control plane of the local cluster: ready, secured as in production, and repairable."""

from __future__ import annotations

import os
import signal
import ssl
import urllib.error
import urllib.request

import pytest
from tessera.kube.client import KubeClient
from tessera.kube.resources import PODS
from tessera.local.control_plane import ControlPlane
from tessera.local.processes import main_process
from tessera.local.readiness import answers_ok
from tessera.local.versions import KUBERNETES_VERSION

pytestmark = pytest.mark.integration


async def test_admin_reads_and_writes(admin: KubeClient, namespace: str) -> None:
    version = await admin.raw("GET", "/version")
    assert f"v{KUBERNETES_VERSION}" in str(version)
    assert (await admin.list(PODS, namespace=namespace)).items == []


def test_a_client_without_a_certificate_is_refused(control_plane: ControlPlane) -> None:
    endpoints = control_plane.endpoints()
    assert endpoints is not None
    trusting = ssl.create_default_context(cafile=str(control_plane.state.pki / "ca.crt"))
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)
        ).open(f"{endpoints.server}/api/v1/pods", timeout=5)
    assert refused.value.code == 401


def test_etcd_is_closed_to_clients_without_its_own_certificate(control_plane: ControlPlane) -> None:
    endpoints = control_plane.endpoints()
    assert endpoints is not None
    anonymous = ssl.create_default_context(cafile=str(control_plane.state.pki / "etcd" / "ca.crt"))
    assert not answers_ok("127.0.0.1", endpoints.ports["etcd"], "/health", tls=anonymous)


def test_up_again_restarts_only_what_died(control_plane: ControlPlane) -> None:
    identity = control_plane.state.identity()
    assert identity is not None
    before = {role: main_process(role, identity=identity) for role in ("kube-apiserver", "kube-scheduler")}
    scheduler = before["kube-scheduler"]
    assert scheduler is not None
    os.kill(scheduler.pid, signal.SIGKILL)
    control_plane.up()
    after = {role: main_process(role, identity=identity) for role in before}
    assert after["kube-apiserver"] == before["kube-apiserver"]
    assert after["kube-scheduler"] is not None and after["kube-scheduler"] != scheduler
