"""Says what is being done and how long it has been going on.

Building Kubernetes takes minutes; a step that stays silent looks hung. A `Progress` prints one line per step
when it starts, a sign of life while it lasts, and its duration when it ends.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Sink = Callable[[str], None]

SIGN_OF_LIFE_SECONDS = 15.0


def to_stderr(line: str) -> None:
    """The default sink: standard error, so that standard output stays clean for `kubeconfig` and `--json`."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Prints steps with the time since the start; give it a sink to print elsewhere, or
    `Progress.silent()`.
    """

    def __init__(self, sink: Sink = to_stderr) -> None:
        self._sink = sink
        self._started = time.monotonic()

    @classmethod
    def silent(cls) -> Progress:
        """For tests and programs: says nothing."""
        return cls(lambda _line: None)

    def say(self, message: str) -> None:
        """One line, with the seconds since this progress began."""
        self._sink(f"[{time.monotonic() - self._started:6.1f} s] {message}")

    @contextmanager
    def step(self, message: str) -> Iterator[None]:
        """Says `message` at the start, every 15 s while it lasts, and the step's own duration at the end."""
        self.say(message)
        began = time.monotonic()
        over = threading.Event()

        def signs_of_life() -> None:
            while not over.wait(SIGN_OF_LIFE_SECONDS):
                self.say(f"{message} ... {time.monotonic() - began:.0f} s so far")

        teller = threading.Thread(target=signs_of_life, daemon=True)
        teller.start()
        try:
            yield
        finally:
            over.set()
            teller.join()
        took = time.monotonic() - began
        if took >= 1.0:
            self.say(f"{message}: done in {took:.1f} s")
