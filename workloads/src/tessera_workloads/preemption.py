"""SIGTERM means: another needs the slice, or the node goes away. The handler only raises a flag; the loop
acts between steps.

It is installed before torch is imported, because a container's first process ignores SIGTERM without a
handler and would be killed hard when its grace period ends. Ctrl-C does the same once; pressed again, it
interrupts at once.
"""

import signal
from types import FrameType


class Preemption:
    """The flag. `requested` turns true at the first SIGTERM or Ctrl-C and stays true."""

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Take over SIGTERM and SIGINT of this process (main thread only)."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
