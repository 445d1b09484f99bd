"""The cluster's own network on this machine: one bridge, one address, four firewall rules.

The bridge carries the pods and its address is the node's, so API server, kubelet and pods reach each other
without forwarding: no system setting is changed, and pods reach nothing outside this machine. There is no
kube-proxy; the one service that programs inside pods count on, `kubernetes.default`, is a rule that redirects
its address to the API server.

A bridge is made under a hardware address derived from the cluster's uid, in one system call with its name.
That is how it is recognised as ours later, and how two clusters that reach for the same number find out who
was first.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import shlex
from dataclasses import dataclass

from tessera.local.errors import LocalClusterError
from tessera.local.host import find_tool, run
from tessera.local.journal import Entry, Journal, Kind
from tessera.local.state import Identity

PODS = ipaddress.ip_network("10.190.0.0/16")
SERVICES = ipaddress.ip_network("10.191.0.0/16")
INDEXES = range(256)


@dataclass(frozen=True)
class ClusterNetwork:
    """The `index`-th of the networks that clusters on one machine can have side by side."""

    index: int

    @property
    def bridge(self) -> str:
        """Name of the bridge interface."""
        return f"tessera{self.index}"

    @property
    def pod_cidr(self) -> str:
        """Where pods get their addresses."""
        return f"10.190.{self.index}.0/24"

    @property
    def service_cidr(self) -> str:
        """Where services get theirs."""
        return f"10.191.{self.index}.0/24"

    @property
    def address(self) -> str:
        """The address of the bridge: the node's, and the pods' gateway."""
        return f"10.190.{self.index}.1"

    @classmethod
    def of_address(cls, address: str) -> ClusterNetwork:
        """The network whose node has this address."""
        return cls(int(address.split(".")[2]))


def hardware_address(identity: Identity) -> str:
    """A locally administered unicast MAC address that only this cluster's bridge has.

    >>> hardware_address(Identity("demo", "0" * 32))
    '02:68:4a:ca:9c:09'
    """
    digest = hashlib.sha256(f"bridge of {identity.mark}".encode()).digest()
    return ":".join(["02", *(f"{byte:02x}" for byte in digest[:5])])


def ensure_bridge(*, identity: Identity, journal: Journal, wanted: ClusterNetwork | None) -> ClusterNetwork:
    """The cluster's bridge, up and with its address; made if it is not there.

    Args:
        wanted: the network of an earlier `up`; the first free one if None.

    Raises:
        LocalClusterError: the earlier network is taken by somebody else, or none is free.
    """
    candidates = [wanted] if wanted else [ClusterNetwork(index) for index in INDEXES]
    for network in candidates:
        if _owned(network.bridge, identity) or _create_bridge(network, identity=identity, journal=journal):
            _configure(network)
            return network
    if wanted:
        raise LocalClusterError(
            f"the network {wanted.pod_cidr} ({wanted.bridge}) of this cluster is taken by something else: "
            f"run `tessera local down --name {identity.name}` and `up` again to get another"
        )
    raise LocalClusterError(f"no free network is left in {PODS}: remove clusters with `tessera local down`")


def ensure_rules(network: ClusterNetwork, *, server_port: int, identity: Identity, journal: Journal) -> None:
    """The firewall rules; each is announced in the journal and carries the cluster's mark as its comment."""
    service = str(ipaddress.ip_network(network.service_cidr)[1])
    to_server = f"-p tcp -d {service}/32 --dport 443"
    redirect = f"-j DNAT --to-destination {network.address}:{server_port}"
    rules = (
        ("nat", "PREROUTING", f"-i {network.bridge} {to_server}", redirect),
        ("nat", "OUTPUT", to_server, redirect),
        # Hosts with a firewall (or Docker) drop by default what these two let through.
        ("filter", "INPUT", f"-i {network.bridge}", "-j ACCEPT"),
        ("filter", "FORWARD", f"-i {network.bridge} -o {network.bridge}", "-j ACCEPT"),
    )
    iptables = find_tool("iptables")
    for table, chain, match, target in rules:
        journal.announce(Kind.FIREWALL_RULE, f"{table}/{chain}")
        if any(rule.startswith(f"-A {chain} ") for rule in _our_rules(table, identity)):
            continue
        comment = ["-m", "comment", "--comment", _comment(identity)]
        run([iptables, "-w", "-t", table, "-I", chain, "1", *match.split(), *comment, *target.split()])


def undo_rule(entry: Entry, identity: Identity) -> None:
    """Deletes our rules of one table."""
    table = entry.name.partition("/")[0]
    for rule in _our_rules(table, identity):
        run([find_tool("iptables"), "-w", "-t", table, "-D", *shlex.split(rule)[1:]])


def undo_bridge(entry: Entry, identity: Identity) -> None:
    """Deletes the bridge if it carries our hardware address, and the pod interfaces that hang on it."""
    if not _owned(entry.name, identity):
        return
    ip = find_tool("ip")
    for link in _links(("master", entry.name)):
        # A pod's end goes with its namespace, a moment after its last process.
        _delete_link(link["ifname"])
    run([ip, "link", "delete", entry.name, "type", "bridge"])


def _create_bridge(network: ClusterNetwork, *, identity: Identity, journal: Journal) -> bool:
    """Makes the bridge unless its name or its addresses are in use; False then."""
    if _links(("dev", network.bridge)) or _overlapping_routes(network):
        return False
    journal.announce(Kind.BRIDGE, network.bridge)
    try:
        run([
            find_tool("ip"), "link", "add", "name", network.bridge,
            "address", hardware_address(identity), "type", "bridge",
        ])  # fmt: skip
    except LocalClusterError:
        if _links(("dev", network.bridge)):
            return False  # Another cluster was faster.
        raise
    return True


def _configure(network: ClusterNetwork) -> None:
    ip = find_tool("ip")
    run([ip, "address", "replace", f"{network.address}/24", "dev", network.bridge])
    run([ip, "link", "set", network.bridge, "up"])
    # So that the machine itself reaches the service address, and other clusters see the range in use.
    run([ip, "route", "replace", network.service_cidr, "dev", network.bridge])


def _owned(bridge: str, identity: Identity) -> bool:
    links = _links(("dev", bridge))
    return bool(links) and links[0].get("address") == hardware_address(identity)


def _links(selector: tuple[str, str]) -> list[dict[str, str]]:
    try:
        answer = run([find_tool("ip"), "-json", "link", "show", *selector])
    except LocalClusterError as error:
        if "does not exist" in str(error):
            return []
        raise
    links: list[dict[str, str]] = [link for link in json.loads(answer or "[]") if link]
    return links


def _delete_link(name: str) -> None:
    try:
        run([find_tool("ip"), "link", "delete", name])
    except LocalClusterError as error:
        if "Cannot find device" not in str(error):
            raise


def _overlapping_routes(network: ClusterNetwork) -> bool:
    ours = [ipaddress.ip_network(network.pod_cidr), ipaddress.ip_network(network.service_cidr)]
    routes = json.loads(run([find_tool("ip"), "-json", "-4", "route", "show", "table", "all"]) or "[]")
    for route in routes:
        destination = route.get("dst", "default")
        if destination == "default":
            continue
        if any(ipaddress.ip_network(destination, strict=False).overlaps(network) for network in ours):
            return True
    return False


def _our_rules(table: str, identity: Identity) -> list[str]:
    listing = run([find_tool("iptables"), "-w", "-t", table, "-S"])
    return [
        line
        for line in listing.splitlines()
        if line.startswith("-A ") and _comment(identity) in shlex.split(line)
    ]


def _comment(identity: Identity) -> str:
    return f"tessera-local:{identity.mark}"
