"""Waits until a process of the cluster answers, and stops waiting when it cannot any more.

A process that died will never become ready; waiting for its deadline would hide the reason. So every look at
the condition is also a look at the process, and the error quotes the end of its log.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable
from pathlib import Path

from tessera.local.certificates import KeyPair
from tessera.local.errors import ProcessFailedError

POLL_SECONDS = 0.05


def wait_ready(
    role: str,
    ready: Callable[[], bool],
    *,
    alive: Callable[[], bool],
    log: Path,
    timeout_seconds: float,
) -> None:
    """Returns when `ready()` is true.

    Raises:
        ProcessFailedError: the process ended, or `timeout_seconds` have passed.
    """
    deadline = time.monotonic() + timeout_seconds
    while not ready():
        if not alive():
            raise ProcessFailedError(process=role, reason="it ended before it was ready", log=log)
        if time.monotonic() > deadline:
            reason = f"it was not ready within {timeout_seconds:.0f} s"
            raise ProcessFailedError(process=role, reason=reason, log=log)
        time.sleep(POLL_SECONDS)


def client_context(*, authority: Path | None, client: KeyPair | None) -> ssl.SSLContext:
    """How to speak TLS to a process of the cluster; without an authority the certificate is not checked.

    The latter is for the health endpoints of processes that make up their own certificate at start; they are
    asked on this machine only, and the answer is a yes or no.
    """
    context = ssl.create_default_context(cafile=str(authority) if authority else None)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    return context


def answers_ok(address: str, port: int, path: str, *, tls: ssl.SSLContext | None) -> bool:
    """Whether a GET of `path` is answered with 200 within two seconds."""
    return fetch(address, port, path, tls=tls) is not None


def fetch(address: str, port: int, path: str, *, tls: ssl.SSLContext | None) -> bytes | None:
    """The body that a GET of `path` is answered with, if that is with 200 and within two seconds."""
    connection = (
        http.client.HTTPSConnection(address, port, timeout=2, context=tls)
        if tls is not None
        else http.client.HTTPConnection(address, port, timeout=2)
    )
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.read() if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
