"""Writes kubeconfig files: where the API server is, whom to trust, and who one is.

Certificates are embedded, so that the file can be copied anywhere on this machine on its own.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

import yaml

from tessera.local.certificates import KeyPair


def write_kubeconfig(
    path: Path, *, cluster: str, server: str, authority: Path, client: KeyPair, user: str
) -> None:
    """Writes (whole or not at all, readable by the owner only) a kubeconfig with one cluster, user and
    context.

    Args:
        path: of the file.
        cluster: name of the cluster and of the context.
        server: URL of the API server.
        authority: certificate that the server's certificate is checked against.
        client: certificate and key that the client shows.
        user: name of the user entry.
    """
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": cluster,
                "cluster": {"server": server, "certificate-authority-data": _embedded(authority)},
            }
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": _embedded(client.certificate),
                    "client-key-data": _embedded(client.key),
                },
            }
        ],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    }
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        yaml.safe_dump(content, file, sort_keys=False)
    unfinished.rename(path)


def _embedded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
