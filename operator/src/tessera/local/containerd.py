"""containerd for one node: its configuration, its pod network, and the images that are put into it.

It runs inside the node's mount namespace, so that its compiled-in socket directory is the cluster's own; its
data lies in the state directory. There is no registry: images come as OCI archives through `import_images`.
"""

from __future__ import annotations

import json
from pathlib import Path

from tessera.local.mount_namespace import node_directory
from tessera.local.network import ClusterNetwork
from tessera.local.pause_image import PAUSE_IMAGE
from tessera.local.state import ClusterState

SOCKET = "/run/containerd/containerd.sock"
"""As the node sees it."""


def host_socket(state: ClusterState) -> Path:
    """The same socket as the rest of the machine sees it."""
    return node_directory(state, "run") / "containerd.sock"


def write_configuration(state: ClusterState, *, network: ClusterNetwork, binaries: Path, runc: Path) -> Path:
    """Writes `containerd.toml` and the CNI network beside it; returns the former."""
    directory = state.directory / "node" / "containerd"
    networks = directory / "net.d"
    networks.mkdir(parents=True, exist_ok=True)
    (networks / "tessera.conflist").write_text(json.dumps(pod_network(network), indent=1))
    configuration = directory / "containerd.toml"
    configuration.write_text(
        containerd_configuration(
            root=directory / "root",
            networks=networks,
            binaries=binaries,
            runc=runc,
            snapshotter=snapshotter_for(_filesystem_of(directory)),
        )
    )
    return configuration


def pod_network(network: ClusterNetwork) -> dict[str, object]:
    """The CNI network: pods on the cluster's bridge, addresses from its range, the node as gateway.

    `isGateway` stays off because it would turn on IP forwarding for the whole machine; the bridge has its
    address already.
    """
    return {
        "cniVersion": "1.0.0",
        "name": network.bridge,
        "plugins": [
            {
                "type": "bridge",
                "bridge": network.bridge,
                "isGateway": False,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": network.pod_cidr, "gateway": network.address}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def snapshotter_for(filesystem: str) -> str:
    """overlayfs, except where the state directory itself is an overlay (inside a container): it cannot be
    stacked.
    """
    return "native" if filesystem == "overlay" else "overlayfs"


def containerd_configuration(
    *, root: Path, networks: Path, binaries: Path, runc: Path, snapshotter: str
) -> str:
    """The TOML text; strings are quoted as JSON, which TOML's basic strings contain."""
    quoted = {name: json.dumps(str(value)) for name, value in locals().items()}
    return f"""version = 3
root = {quoted["root"]}
state = "/run/containerd"
oom_score = 0
# NRI and opt would make directories outside of the cluster's own.
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]

[grpc]
  address = "{SOCKET}"

[plugins.'io.containerd.cri.v1.images']
  snapshotter = {quoted["snapshotter"]}
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{PAUSE_IMAGE}"

[plugins.'io.containerd.cri.v1.runtime']
  enable_cdi = true
  cdi_spec_dirs = ["/etc/cdi", "/run/cdi"]
  # Without CAP_SYS_RESOURCE (as inside many sandboxes) runc dies when it lowers a score.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [{quoted["binaries"]}]
  conf_dir = {quoted["networks"]}
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = "runc"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = {quoted["runc"]}
  SystemdCgroup = false
"""


def _filesystem_of(directory: Path) -> str:
    """The type of the file system that holds `directory`."""
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        mount_point = fields[4].rstrip("/")
        if f"{directory}/".startswith(f"{mount_point}/") and len(mount_point) >= len(best):
            best, kind = mount_point, fields[fields.index("-") + 1]
    return kind
