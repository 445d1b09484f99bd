"""Where the API server is, and how we prove who we are.

Inside a cluster: the service account's CA and token files. The kubelet rotates the token, so it is read
again after at most 60 s and at once when the server says 401. Outside: a kubeconfig, read by the official
client's loader (exec plugins, contexts and embedded certificates are its work), which is imported only
then, because it costs a second and 40 MB.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tessera.api.errors import TesseraError

SERVICE_ACCOUNT_DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_MAX_AGE_SECONDS = 60.0


@dataclass
class Credentials:
    """An API server's address and a way to get the current Authorization header."""

    server: str
    tls: ssl.SSLContext | None
    read_authorization: Callable[[], str | None] = lambda: None
    """Blocking (a file, or an exec plugin of a kubeconfig), so it is called in a thread."""
    namespace: str = "default"
    server_hostname: str | None = None
    proxy: str | None = None
    _cached: str | None = field(default=None, init=False)
    _read_at: float | None = field(default=None, init=False)

    async def authorization(self, *, fresh: bool = False) -> str | None:
        """The Authorization header's value, None where a client certificate does the work."""
        now = time.monotonic()
        if fresh or self._read_at is None or now - self._read_at > TOKEN_MAX_AGE_SECONDS:
            self._cached = await asyncio.to_thread(self.read_authorization)
            self._read_at = now
        return self._cached


def load_credentials(
    *,
    kubeconfig: Path | str | None = None,
    context: str | None = None,
    service_account_directory: Path = SERVICE_ACCOUNT_DIRECTORY,
) -> Credentials:
    """Credentials of an explicit kubeconfig or context, else of our pod, else of the default kubeconfig.

    Raises TesseraError when none of them is usable.
    """
    explicit = kubeconfig is not None or context is not None or "KUBECONFIG" in os.environ
    if (
        not explicit
        and "KUBERNETES_SERVICE_HOST" in os.environ
        and (service_account_directory / "token").exists()
    ):
        return in_cluster(service_account_directory)
    return from_kubeconfig(kubeconfig, context)


def in_cluster(directory: Path = SERVICE_ACCOUNT_DIRECTORY) -> Credentials:
    """The service account of the pod that this process runs in."""
    host = os.environ["KUBERNETES_SERVICE_HOST"]
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    host = f"[{host}]" if ":" in host else host
    namespace_file = directory / "namespace"
    return Credentials(
        server=f"https://{host}:{port}",
        tls=ssl.create_default_context(cafile=str(directory / "ca.crt")),
        read_authorization=lambda: f"Bearer {(directory / 'token').read_text().strip()}",
        namespace=namespace_file.read_text().strip() if namespace_file.exists() else "default",
    )


def from_kubeconfig(kubeconfig: Path | str | None, context: str | None) -> Credentials:
    """The cluster and user of a kubeconfig's context (the current one when `context` is None).

    Raises TesseraError when it cannot be read, is no kubeconfig, or holds a broken certificate.
    """
    import yaml
    from kubernetes.config.config_exception import ConfigException

    path = str(kubeconfig) if kubeconfig is not None else None
    try:
        return _loaded(path, context)
    except (ConfigException, OSError) as error:
        raise _unusable(path, str(error).strip().rstrip(".")) from error
    except (AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
        # The loader takes a kubeconfig's shape on trust, so any other file ends in whatever it trips over.
        raise _unusable(path, f"it is not a kubeconfig ({' '.join(str(error).split())})") from error


def _unusable(path: str | None, reason: str) -> TesseraError:
    return TesseraError(
        f"cannot use the kubeconfig {path or os.environ.get('KUBECONFIG', '~/.kube/config')}",
        reason,
        "Start a cluster with `tessera local up`, or point KUBECONFIG at one",
    )


def _loaded(path: str | None, context: str | None) -> Credentials:
    from kubernetes.client import Configuration
    from kubernetes.config import kube_config

    configuration: Any = Configuration()
    kube_config.load_kube_config(path, context, configuration, persist_config=False)
    contexts, active = kube_config.list_kube_config_contexts(path)
    if not configuration.host:
        raise ValueError("its cluster names no server")
    chosen = next((candidate for candidate in contexts if candidate["name"] == context), active)
    return Credentials(
        server=str(configuration.host).rstrip("/"),
        tls=_tls(configuration) if str(configuration.host).startswith("https") else None,
        read_authorization=lambda: _authorization(configuration),
        namespace=str(((chosen or {}).get("context") or {}).get("namespace") or "default"),
        server_hostname=configuration.tls_server_name,
        proxy=configuration.proxy,
    )


def _tls(configuration: Any) -> ssl.SSLContext:
    tls = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
    if not configuration.verify_ssl:
        # Only where the kubeconfig itself says insecure-skip-tls-verify.
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    if configuration.cert_file:
        tls.load_cert_chain(configuration.cert_file, configuration.key_file)
    return tls


def _authorization(configuration: Any) -> str | None:
    # Asking for the settings also refreshes an expired token of an exec plugin.
    bearer = configuration.auth_settings().get("BearerToken") or {}
    return str(bearer["value"]) if bearer.get("value") else None
