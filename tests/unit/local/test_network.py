"""Networks of clusters side by side do not overlap, and a bridge tells whose it is."""

from __future__ import annotations

import ipaddress

from tessera.local.network import INDEXES, ClusterNetwork, hardware_address
from tessera.local.state import Identity


def test_networks_of_different_clusters_are_disjoint() -> None:
    networks = [ClusterNetwork(index) for index in INDEXES]
    ranges = {cidr for network in networks for cidr in (network.pod_cidr, network.service_cidr)}
    assert len(ranges) == 2 * len(networks)
    assert len({network.bridge for network in networks}) == len(networks)


def test_a_network_is_known_by_its_node_address() -> None:
    for index in (0, 7, 255):
        network = ClusterNetwork(index)
        assert ipaddress.ip_address(network.address) in ipaddress.ip_network(network.pod_cidr)
        assert ClusterNetwork.of_address(network.address) == network


def test_bridge_names_fit_the_kernel() -> None:
    assert all(len(ClusterNetwork(index).bridge) <= 15 for index in INDEXES)


def test_a_hardware_address_is_stable_local_unicast_and_the_clusters_own() -> None:
    one, namesake = Identity("demo", "0" * 32), Identity("demo", "1" * 32)
    assert hardware_address(one) == hardware_address(one) != hardware_address(namesake)
    first = int(hardware_address(one).split(":")[0], 16)
    assert first & 0b01 == 0, "multicast"
    assert first & 0b10, "must be locally administered"
