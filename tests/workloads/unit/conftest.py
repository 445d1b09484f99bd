"""What tests of the worker's command share."""

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture
def signals_restored() -> Iterator[None]:
    """The command takes over SIGTERM and SIGINT; a test that calls it in this process gives them back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
