"""The kubelet's configuration: what a node needs to run on a developer's machine without disturbing it."""

from __future__ import annotations

from pathlib import Path

import yaml

from tessera.local.cgroups import is_version_1
from tessera.local.containerd import SOCKET

PORT = 10250
HEALTHZ_PORT = 10248


def kubelet_configuration(
    *, address: str, cgroup_root: str, client_ca: Path, certificate: Path, key: Path
) -> dict[str, object]:
    """The `KubeletConfiguration` document.

    Args:
        address: of the node; the cluster's own, so the usual ports are free on it.
        cgroup_root: the subtree under which all pods are put.
        client_ca: who may talk to the kubelet, besides what RBAC says.
        certificate: serving certificate for `address`.
        key: of the certificate.
    """
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(client_ca)},
        },
        "authorization": {"mode": "Webhook"},
        "address": address,
        "port": PORT,
        "readOnlyPort": 0,
        "healthzBindAddress": address,
        "healthzPort": HEALTHZ_PORT,
        "tlsCertFile": str(certificate),
        "tlsPrivateKeyFile": str(key),
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": not is_version_1(),
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        # Its own score is left alone: lowering it needs CAP_SYS_RESOURCE.
        "oomScoreAdj": 0,
        # The machine's firewall belongs to the machine.
        "makeIPTablesUtilChains": False,
        # A developer's disk is often nearly full, and images that were imported cannot be fetched again.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        # There is no cluster DNS: a refused connection fails at once where an absent server would time out.
        "clusterDNS": ["127.0.0.1"],
        "clusterDomain": "cluster.local",
        "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        "registerNode": True,
    }


def write_configuration(path: Path, configuration: dict[str, object]) -> None:
    """Writes the document as YAML."""
    path.write_text(yaml.safe_dump(configuration, sort_keys=False))
