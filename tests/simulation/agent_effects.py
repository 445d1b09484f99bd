"""Every side effect of a node agent, one after the other, and a death or an error at any of them.

An agent leaves traces in four places only: files (checkpoint and CDI specs), the GPU (NVML calls that change
it), the API server (writes), and the kubelet (answers). All four are watched here. What is between two side
effects are questions and thoughts; a process killed there leaves what it leaves just before the next side
effect. So killing before each side effect, and after the last, is every place where an agent can die.

A dead agent does nothing more: whatever its `finally` and `except` clauses try raises the same again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from agent_api import MemoryAPI
from tessera.gpu.driver import LocalDriver
from tessera.gpu.nvml import NVML
from tessera.gpu.simulator.faults import FaultInjector

CHANGING = {
    "nvmlDeviceSetMigMode": "set MIG mode",
    "nvmlDeviceCreateGpuInstanceWithPlacement": "create GPU instance",
    "nvmlGpuInstanceCreateComputeInstance": "create compute instance",
    "nvmlComputeInstanceDestroy": "destroy compute instance",
    "nvmlGpuInstanceDestroy": "destroy GPU instance",
}
UNKNOWN_ERROR = 999
MOST_ANSWERS = 1000
"""Answers that are kept; a long run of `agent_soak` must not grow."""


Known = dict[tuple[Any, ...], tuple[Any, list[str]]]


class Killed(BaseException):
    """As kill -9: no code of the agent may catch it."""


@dataclass
class Effects:
    """One agent's side effects by name, in order; it dies before number `kill` (from 1)."""

    kill: int = 0
    refuse: int = 0
    """The side effect (from 1) that raises `error` instead of happening; files and API writes."""
    error: Exception | None = None
    fail_call: int = 0
    """The NVML call (from 1, questions count) that answers with an error."""
    fail_after: bool = False
    """That call takes effect, only its answer is lost."""
    names: list[str] = field(default_factory=list)
    syncs: list[int] = field(default_factory=list)
    """Which of them are fsync: for a kill, nothing has happened since the one before."""
    calls: list[str] = field(default_factory=list)
    """All NVML calls."""
    methods: list[int] = field(default_factory=list)
    """The number of the first NVML call of each request to the driver."""
    dead: bool = False

    def begin(self, name: str) -> None:
        """Called before the side effect. Raises `Killed`, or the error to try."""
        self.names.append(name)
        if len(self.names) == self.kill:
            self.dead = True
        self.alive()
        if len(self.names) == self.refuse and self.error is not None:
            raise self.error

    def expect(self, *, refuse: int = 0, fail_call: int = 0, fail_after: bool = False) -> None:
        """Begin to count anew, with another error to come."""
        for counted in (self.names, self.syncs, self.calls, self.methods):
            counted.clear()
        self.kill, self.refuse, self.fail_call, self.fail_after = 0, refuse, fail_call, fail_after

    def alive(self) -> None:
        """Raises `Killed` when the agent is dead."""
        if self.dead:
            raise Killed

    def nvml(self, symbol: str, call: Callable[[], int]) -> int:
        """One NVML call."""
        self.alive()
        self.calls.append(symbol)
        hit = len(self.calls) == self.fail_call
        if symbol in CHANGING:
            self.begin(f"NVML: {CHANGING[symbol]}")
        if not hit:
            return call()
        if self.fail_after:
            call()
        return UNKNOWN_ERROR

    @contextmanager
    def on_disk(self, directory: Path) -> Iterator[None]:
        """Watch the files below `directory`/agent and `directory`/cdi."""
        watched = {str(directory / "agent"): "checkpoint", str(directory / "cdi"): "CDI spec"}

        def name_of(path: Path) -> str | None:
            text = str(path)
            for root, name in watched.items():
                if text.startswith(root):
                    return f"damaged {name}" if ".damaged" in text else name
            return None

        def watch(real: Callable[..., Any], what: str) -> Callable[..., Any]:
            def step(path: Path, *arguments: Any, **options: Any) -> Any:
                name = name_of(path)
                writes = what != "write" or "w" in str((arguments or (options.get("mode", "r"),))[0])
                there = what != "remove" or path.exists()
                if name is not None and writes and there:
                    self.begin(f"{name}: {what}")
                return real(path, *arguments, **options)

            return step

        def fsync(descriptor: int) -> None:
            # A killed process loses nothing that it has written; only a power cut needs the disk to be waited
            # for, and the simulator's own files are not the agent's.
            path = Path(f"/proc/self/fd/{descriptor}").readlink()
            name = name_of(path)
            if name is not None:
                self.syncs.append(len(self.names) + 1)
                self.begin(f"{name}: fsync {'directory' if str(path) in watched else 'file'}")

        def link(source: Path, target: Path) -> None:
            self.begin(f"{name_of(target)}: link")
            real_link(source, target)

        real_link = os.link
        with ExitStack() as stack:
            for method, what in (("open", "write"), ("replace", "rename"), ("unlink", "remove")):
                stack.enter_context(mock.patch.object(Path, method, watch(getattr(Path, method), what)))
            stack.enter_context(mock.patch.object(os, "fsync", fsync))
            stack.enter_context(mock.patch.object(os, "link", link))
            yield


@dataclass
class Answers:
    """What NVML answered, with the calls that it took, by question and by what the simulator's file said.

    A question changes nothing, so asked again of the same GPU it has the same answer. Copies of a node share
    their answers: more than half the time of these tests would go into a hundred calls for each look.
    """

    state: Path
    known: Known | None
    """None: always ask."""


class WatchedDriver(LocalDriver):
    """Notes where each request begins, and counts its NVML calls also where the answer is known."""

    def __init__(self, nvml: NVML, effects: Effects, answers: Answers) -> None:
        super().__init__(nvml, simulated=True)
        self._effects = effects
        self._answers = answers

    async def call(self, method: str, *arguments: Any) -> Any:
        """One request."""
        effects, known = self._effects, self._answers.known
        effects.methods.append(len(effects.calls) + 1)
        if known is None or method not in ("inventory", "instances"):
            return await super().call(method, *arguments)
        effects.alive()
        with self._nvml._session():  # opened by an agent's first question, whether its answer is known or not
            begin = len(effects.calls)
        question = (self._answers.state.read_bytes(), method, *arguments)
        if question in known:
            answer, calls = known[question]
            if not begin < effects.fail_call <= begin + len(calls):
                effects.calls += calls
                return answer
        answer = await super().call(method, *arguments)
        if not begin < effects.fail_call <= len(effects.calls):
            if len(known) >= MOST_ANSWERS:
                known.clear()
            known[question] = (answer, effects.calls[begin:])
        return answer


class WatchedInjector(FaultInjector):
    """The effects in place of the simulator's own faults: looking for those takes a quarter of each call."""

    def __init__(self, directory: Path, effects: Effects) -> None:
        super().__init__(directory)
        self._effects = effects

    def around(self, symbol: str, call: Callable[[], int]) -> int:
        """One NVML call."""
        return self._effects.nvml(symbol, call)


class WatchedAPI:
    """The API as one agent uses it."""

    def __init__(self, api: MemoryAPI, effects: Effects) -> None:
        self._api = api
        self._effects = effects

    async def get(self, resource: Any, name: str, namespace: str | None = None) -> dict[str, Any]:
        """GET."""
        self._effects.alive()
        return await self._api.get(resource, name, namespace)

    async def list(self, resource: Any, **options: Any) -> Any:
        """GET of many."""
        self._effects.alive()
        return await self._api.list(resource, **options)

    async def apply(self, resource: Any, item: dict[str, Any], subresource: str = "") -> dict[str, Any]:
        """PATCH (apply)."""
        self._effects.begin(f"API: apply {resource.kind}{'/' if subresource else ''}{subresource}")
        return await self._api.apply(resource, item)

    async def delete(self, resource: Any, name: str, **_: Any) -> None:
        """DELETE."""
        self._effects.begin(f"API: delete {resource.kind}")
        await self._api.delete(resource, name)
