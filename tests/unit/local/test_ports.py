"""Ports are free, distinct, and outside of the range that outgoing connections take theirs from."""

from __future__ import annotations

import socket
from pathlib import Path

from tessera.local.ports import HIGHEST, LOWEST, free_ports, is_free


def test_ports_are_distinct_and_free() -> None:
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(is_free(port) for port in ports)


def test_ports_lie_below_the_ephemeral_range() -> None:
    lowest_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert LOWEST < HIGHEST <= max(lowest_ephemeral, 32_000)
    assert all(LOWEST <= port < HIGHEST for port in free_ports(50))


def test_a_port_with_a_listener_is_not_free() -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)


def test_a_port_of_one_address_may_be_free_on_another() -> None:
    (port,) = free_ports(1)
    with socket.create_server(("127.0.0.2", port)):
        assert is_free(port, address="127.0.0.1")
        assert not is_free(port, address="127.0.0.2")
