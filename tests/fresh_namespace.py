"""A namespace of a test's own, made and removed with a request each: three kubectl processes in every one of
hundreds of tests would cost minutes of a core.
"""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from tessera.local.certificates import KeyPair
from tessera.local.control_plane import ControlPlane
from tessera.local.readiness import client_context

REQUEST_SECONDS = 30.0
ACCOUNT_SECONDS = 30.0


@contextmanager
def fresh_namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace with its default service account; deleted afterwards, without waiting for the end."""
    name = f"test-{uuid.uuid4().hex[:10]}"
    with closing(_connection(control_plane)) as connection:
        _ask(connection, "POST", "/api/v1/namespaces", body={"metadata": {"name": name}})
        deadline = time.monotonic() + ACCOUNT_SECONDS
        while not _ask(connection, "GET", f"/api/v1/namespaces/{name}/serviceaccounts/default"):
            if time.monotonic() > deadline:
                pytest.fail(f"namespace {name} had no default service account in {ACCOUNT_SECONDS:.0f} s")
            time.sleep(0.02)
    yield name
    with closing(_connection(control_plane)) as connection:
        _ask(connection, "DELETE", f"/api/v1/namespaces/{name}")


def _connection(control_plane: ControlPlane) -> http.client.HTTPSConnection:
    endpoints = control_plane.endpoints()
    assert endpoints is not None, f"the control plane {control_plane.state.name} was never started"
    pki = control_plane.state.pki
    tls = client_context(authority=pki / "ca.crt", client=KeyPair(pki / "admin.crt", pki / "admin.key"))
    port = endpoints.ports["kube-apiserver"]
    return http.client.HTTPSConnection(endpoints.address, port, timeout=REQUEST_SECONDS, context=tls)


def _ask(
    connection: http.client.HTTPSConnection, method: str, path: str, *, body: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """The answer of the API server as administrator; None for what is not there."""
    text = json.dumps(body) if body is not None else None
    connection.request(method, path, body=text, headers={"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read().decode()
    if response.status == http.HTTPStatus.NOT_FOUND:
        return None
    assert response.status < http.HTTPStatus.BAD_REQUEST, f"{method} {path}: {answer}"
    found: dict[str, Any] = json.loads(answer)
    return found
