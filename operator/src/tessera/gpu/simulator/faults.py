"""Failures on demand: make the n-th call of an NVML symbol fail, hang, wait, or kill its process.

Rules come from the file `faults.json` beside the state file, or from the environment variable
`TESSERA_SIMULATOR_FAULTS` (the same JSON). A rule counts the calls of its symbol; the counts are kept in
the file, so they go on across processes and restarts. The environment's rules count per process.

    [{"symbol": "nvmlGpuInstanceDestroy", "nth": 1, "times": 2, "action": "fail", "code": 19}]

`nth` is the first call hit (1 = the next), `times` how many in a row (0 = for ever). Actions: `fail`
(returns `code`, nothing happens), `hang` and `delay` (wait `seconds`, then go on), `exit` (the process
ends at once, as by kill -9). `when: "after"` lets the call take effect first: the answer is lost, the
change is not.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ENVIRONMENT = "TESSERA_SIMULATOR_FAULTS"


@dataclass(slots=True)
class Fault:
    """One rule. `seen` counts the calls of its symbol so far."""

    symbol: str
    action: str = "fail"
    code: int = 999
    seconds: float = 0.0
    nth: int = 1
    times: int = 1
    when: str = "before"
    seen: int = 0

    def hits(self) -> bool:
        """Count one call; whether this one is hit."""
        self.seen += 1
        return self.seen >= self.nth and (self.times == 0 or self.seen < self.nth + self.times)


def parse(text: str) -> list[Fault]:
    """Read rules from JSON. Raises `ValueError` naming what is wrong."""
    faults = [Fault(**rule) for rule in json.loads(text)]
    for fault in faults:
        if fault.action not in ("fail", "hang", "delay", "exit"):
            raise ValueError(
                f"fault on {fault.symbol}: action {fault.action!r}; use fail, hang, delay or exit"
            )
        if fault.when not in ("before", "after"):
            raise ValueError(f"fault on {fault.symbol}: when {fault.when!r}; use before or after")
    return faults


class FaultInjector:
    """Looks every call up in the rules."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "faults.json"
        self._from_environment = parse(os.environ.get(ENVIRONMENT, "[]"))

    def set(self, faults: list[Fault]) -> None:
        """Replace the file's rules."""
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps([asdict(fault) for fault in faults]), encoding="utf-8")
        temporary.replace(self._path)

    def around(self, symbol: str, call: Callable[[], int]) -> int:
        """Run the call with whatever its rules demand; returns its code or the injected one."""
        hit = self._hit(symbol)
        if hit is None:
            return call()
        outcome = call() if hit.when == "after" else None
        if hit.action == "exit":
            os._exit(137)
        if hit.action == "fail":
            return hit.code
        time.sleep(hit.seconds)
        return call() if outcome is None else outcome

    def _hit(self, symbol: str) -> Fault | None:
        for fault in self._from_environment:
            if fault.symbol == symbol and fault.hits():
                return fault
        return self._hit_in_file(symbol)

    def _hit_in_file(self, symbol: str) -> Fault | None:
        try:
            with self._path.open("r+", encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                faults = parse(file.read())
                if all(fault.symbol != symbol for fault in faults):
                    return None
                hit = next((fault for fault in faults if fault.symbol == symbol and fault.hits()), None)
                file.seek(0)
                json.dump([asdict(fault) for fault in faults], file)
                file.truncate()
                return hit
        except FileNotFoundError:
            return None
