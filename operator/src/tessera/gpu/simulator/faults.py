"""Failures on demand: make the n-th call of an NVML symbol fail, hang, wait, lose its GPU or end its process.

Rules come from the file `faults.json` beside the state file, or from the environment variable
`TESSERA_SIMULATOR_FAULTS` (the same JSON). A rule counts the calls of its symbol (`*`: of every symbol);
the counts are kept in the file, so they go on across processes and restarts. The environment's rules
count per process.

    [{"symbol": "nvmlGpuInstanceDestroy", "nth": 1, "times": 2, "action": "fail", "code": 19}]

`nth` is the first call hit (1 = the next), `times` how many in a row (0 = for ever). Actions: `fail`
(returns `code`, nothing happens), `hang` and `delay` (wait `seconds`, then go on), `lose` (GPU number
`index` falls off the bus, then the call goes on), `exit` (the process ends at once, as by kill -9).
`when: "after"` lets the call take effect first: the answer is lost, the change is not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tessera.gpu.lock_file import exclusive
from tessera.gpu.simulator import control

ENVIRONMENT = "TESSERA_SIMULATOR_FAULTS"
EVERY_SYMBOL = "*"
_ACTIONS = ("fail", "hang", "delay", "lose", "exit")


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
    index: int = 0

    def concerns(self, symbol: str) -> bool:
        """Whether calls of that symbol are counted."""
        return self.symbol in (symbol, EVERY_SYMBOL)

    def hits(self) -> bool:
        """Count one call; whether this one is hit."""
        self.seen += 1
        return self.seen >= self.nth and (self.times == 0 or self.seen < self.nth + self.times)


def parse(text: str) -> list[Fault]:
    """Read rules from JSON. Raises `ValueError` naming what is wrong."""
    faults = [Fault(**rule) for rule in json.loads(text)]
    for fault in faults:
        if fault.action not in _ACTIONS:
            raise ValueError(
                f"fault on {fault.symbol}: action {fault.action!r}; use one of {', '.join(_ACTIONS)}"
            )
        if fault.when not in ("before", "after"):
            raise ValueError(f"fault on {fault.symbol}: when {fault.when!r}; use before or after")
    return faults


class FaultInjector:
    """Looks every call up in the rules."""

    def __init__(self, directory: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._directory = directory
        self._path = directory / "faults.json"
        self._lock_path = directory / "faults.lock"
        self._from_environment = parse(os.environ.get(ENVIRONMENT, "[]"))
        self._sleep = sleep

    def set(self, faults: list[Fault]) -> None:
        """Replace the file's rules."""
        with exclusive(self._lock_path):
            self._store(faults)

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
        if hit.action == "lose":
            control.lose(self._directory, index=hit.index)
        else:
            self._sleep(hit.seconds)
        return call() if outcome is None else outcome

    def _hit(self, symbol: str) -> Fault | None:
        for fault in self._from_environment:
            if fault.concerns(symbol) and fault.hits():
                return fault
        return self._hit_in_file(symbol) if self._path.exists() else None

    def _hit_in_file(self, symbol: str) -> Fault | None:
        with exclusive(self._lock_path):
            faults = self._load()
            if not any(fault.concerns(symbol) for fault in faults):
                return None
            hit = next((fault for fault in faults if fault.concerns(symbol) and fault.hits()), None)
            self._store(faults)
            return hit

    def _load(self) -> list[Fault]:
        try:
            return parse(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # removed just now: no faults any more
            return []

    def _store(self, faults: list[Fault]) -> None:
        """Replace the file as a whole: a process killed here leaves the old rules or the new ones."""
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps([asdict(fault) for fault in faults]), encoding="utf-8")
        temporary.replace(self._path)
