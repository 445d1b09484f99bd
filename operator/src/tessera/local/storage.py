"""A place for results: volumes of the storage class `tessera-local` are a directory on this machine.

There is no provisioner; one volume waits to be claimed, large enough and shared, and whoever claims it finds
what pods wrote under `<state>/output`. Pods run as whichever user their image says, so anybody may write
there; the cluster's directory above it lets only its owner through. (Pods see the volume by a mount of root's
and do not pass there.)
"""

from __future__ import annotations

import json
from pathlib import Path

from tessera.local.control_plane import ControlPlane

STORAGE_CLASS = "tessera-local"


def ensure_storage(control_plane: ControlPlane) -> None:
    """Creates the directory, the storage class and the volume that leads to it."""
    make_output(control_plane.state.output)
    documents = storage_objects(cluster=control_plane.state.name, output=control_plane.state.output)
    control_plane.kubectl(
        "apply",
        "--server-side",
        "-f",
        "-",
        input_text="\n".join(json.dumps(document) for document in documents),
    )


def make_output(output: Path) -> None:
    """A directory that every pod may write to and, of this machine's users, only the cluster's owner reaches.

    Args:
        output: a directory directly in the cluster's own; that one exists.
    """
    output.parent.chmod(0o700)  # First: the directory below is never open to other users, not for a moment.
    output.mkdir(exist_ok=True)
    output.chmod(0o1777)


def storage_objects(*, cluster: str, output: Path) -> list[dict[str, object]]:
    """The StorageClass and the PersistentVolume."""
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": STORAGE_CLASS},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "Immediate",
        },
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"tessera-local-{cluster}"},
            "spec": {
                "accessModes": ["ReadWriteMany"],
                "capacity": {"storage": "20Gi"},
                "storageClassName": STORAGE_CLASS,
                "persistentVolumeReclaimPolicy": "Retain",
                "hostPath": {"path": str(output), "type": "Directory"},
            },
        },
    ]
