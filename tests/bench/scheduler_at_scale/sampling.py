"""Where an allocator's processor time goes: its stack, looked at every two milliseconds of its own CPU time.

    python -m bench.scheduler_at_scale.sampling FILE MODULE:FUNCTION ARGUMENTS...

runs the function, and keeps FILE up to date: how many samples each function was the innermost of (self) and
how many it was anywhere in the stack of (total). Time in C (JSON, TLS, the garbage collector) counts for the
Python function that called it.
"""

from __future__ import annotations

import importlib
import signal
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import CodeType, FrameType

EVERY_SECONDS = 0.002
SAMPLES_BETWEEN_WRITES = 250
SHOWN = 60


class Sampler:
    """Counts stacks on SIGPROF, which the kernel sends by the processor time that was used."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._innermost: Counter[str] = Counter()
        self._anywhere: Counter[str] = Counter()
        self._samples = 0

    def start(self) -> None:
        """Begin to look."""
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, EVERY_SECONDS, EVERY_SECONDS)

    def _look(self, _: int, frame: FrameType | None) -> None:
        self._samples += 1
        seen: set[str] = set()
        innermost = frame
        while frame is not None:
            seen.add(_name(frame))
            frame = frame.f_back
        if innermost is not None:
            self._innermost[f"{_name(innermost)}:{innermost.f_lineno}"] += 1
        self._anywhere.update(seen)
        if self._samples % SAMPLES_BETWEEN_WRITES == 0:
            self._file.write_text(self.report())

    def report(self) -> str:
        """The functions with the most samples, in per cent."""
        lines = [f"{self._samples} samples of {1000 * EVERY_SECONDS:.0f} ms"]
        for title, counts in (("self", self._innermost), ("total", self._anywhere)):
            lines.append(title)
            lines += [f"{100 * n / self._samples:6.1f}  {what}" for what, n in counts.most_common(SHOWN)]
        return "\n".join(lines) + "\n"


def _name(frame: FrameType) -> str:
    return _name_of(frame.f_code)


@cache
def _name_of(code: CodeType) -> str:
    path = Path(code.co_filename)
    return f"{path.parent.name}/{path.name}:{code.co_qualname}"


def main() -> None:
    """Take the arguments away that are ours, and run."""
    file, entry = sys.argv[1:3]
    module, function = entry.split(":")
    sys.argv = [module, *sys.argv[3:]]
    Sampler(Path(file)).start()
    getattr(importlib.import_module(module), function)()


if __name__ == "__main__":
    main()
