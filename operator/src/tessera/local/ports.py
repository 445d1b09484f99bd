"""Chooses free TCP ports of this machine.

Ports come from below the kernel's ephemeral range (32768 and up): there, an outgoing connection of anybody
could take a port between our look and the server's bind. Two clusters that start together may still pick the
same one; then the slower server fails to bind and its cluster starts again with other ports.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

LOWEST, HIGHEST = 20_000, 32_000


def free_ports(count: int, *, address: str = "127.0.0.1") -> list[int]:
    """`count` distinct ports that could be bound at `address` just now."""
    candidates = _candidates()
    return [next(port for port in candidates if is_free(port, address=address)) for _ in range(count)]


def is_free(port: int, *, address: str = "127.0.0.1") -> bool:
    """Whether a server could listen on `address:port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _candidates() -> Iterator[int]:
    # Unseeded on purpose: clusters that start together must not walk the same sequence.
    yield from random.sample(range(LOWEST, HIGHEST), HIGHEST - LOWEST)
