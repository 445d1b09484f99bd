"""Makes the image of the container that holds a pod's namespaces open, from Debian's static busybox.

There is no registry to fetch the usual one from, and an OCI image archive is only a tar of a few JSON
documents and one layer.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Sequence
from pathlib import Path

PAUSE_IMAGE = "docker.io/tessera-local/pause:1"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def busybox_image(*, name: str, busybox: Path, command: Sequence[str], applets: Sequence[str] = ()) -> bytes:
    """An OCI image archive with a static busybox as its only program.

    Args:
        name: full image name with registry and tag, as `ctr images import` wants it.
        busybox: a statically linked busybox.
        command: what the image runs; `/bin/busybox` and an applet.
        applets: names under which busybox also stands in `/bin`.

    Returns:
        The same bytes for the same arguments.
    """
    layer = _layer(busybox.read_bytes(), applets)
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    config = _document(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": list(command), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    )
    manifest = _document(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    index = _document(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [
                _descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
                | {"annotations": {"io.containerd.image.name": name}}
            ],
        }
    )
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        _add(tar, "oci-layout", _document({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", index)
        for blob in (config, manifest, layer):
            _add(tar, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
    return archive.getvalue()


def _layer(busybox: bytes, applets: Sequence[str]) -> bytes:
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for directory, mode in (("bin", 0o755), ("tmp", 0o1777)):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        _add(tar, "bin/busybox", busybox, mode=0o755)
        for applet in applets:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return layer.getvalue()


def _document(content: dict[str, object]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {
        "mediaType": media_type,
        "digest": f"sha256:{hashlib.sha256(blob).hexdigest()}",
        "size": len(blob),
    }


def _add(tar: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))
