"""NVML in a child process, so that a driver call which never returns cannot stop the agent.

A thread that hangs in the kernel cannot be stopped; a process can at least be abandoned. So the agent
keeps one child (`python -m tessera.gpu.nvml_process`), sends it one request at a time over a socket pair
and waits with a limit. When the limit passes the child is killed and the call fails with the fault `HANG`;
further calls fail at once until a pause has passed, then a new child is tried. The child ends by itself
when the agent's end of the socket closes, and is killed by the kernel when the agent dies.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from tessera.gpu.driver import Driver
from tessera.gpu.faults import CHILD_DIED, HANG, SIMULATOR_UNUSABLE, NVMLFault
from tessera.gpu.nvml import NVML
from tessera.gpu.profiles import UnknownModel

log = logging.getLogger(__name__)

MOST_SIMULATED_GPUS = 64
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Simulation:
    """Which simulated node the child plays. `state_dir` holds its state file."""

    state_dir: str
    model: str = "H100-80GB"
    count: int = 2
    seed: str = "node"


class NVMLProcess(Driver):
    """A driver whose calls run in a child process with a time limit."""

    def __init__(
        self,
        simulation: Simulation | None = None,
        *,
        timeout_seconds: float = 30.0,
        pause_seconds: float = 5.0,
    ) -> None:
        self._simulation = simulation
        self.timeout_seconds = timeout_seconds
        self._pause_seconds = pause_seconds
        self._blocked_until = 0.0
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nvml")
        self.simulated = simulation is not None

    async def call(self, method: str, *arguments: Any) -> Any:
        """Run the call in the child. Raises `NVMLFault`, with code `HANG` when the time limit passed."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._request, method, arguments
        )

    async def close(self) -> None:
        """End the child and wait for it."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._end)

    def _request(self, method: str, arguments: tuple[Any, ...]) -> Any:
        if time.monotonic() < self._blocked_until:
            raise NVMLFault(HANG, call=method, target="paused after an earlier hang")
        connection = self._connection or self._start()
        try:
            connection.send((method, arguments))
            if not connection.poll(self.timeout_seconds):
                log.error(
                    "NVML call %s did not return in %.0f s; killing its process",
                    method,
                    self.timeout_seconds,
                )
                self._end()
                self._blocked_until = time.monotonic() + self._pause_seconds
                raise NVMLFault(HANG, call=method)
            outcome = connection.recv()
        except (EOFError, ConnectionError, BrokenPipeError):
            self._end()
            raise NVMLFault(CHILD_DIED, call=method) from None
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            simulation = json.dumps(asdict(self._simulation)) if self._simulation else ""
            self._child = subprocess.Popen(
                [sys.executable, "-m", "tessera.gpu.nvml_process", str(theirs.fileno()), simulation],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        return self._connection

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._child is not None:
            child, self._child = self._child, None
            child.kill()
            try:
                child.wait(timeout=2)
            except (
                subprocess.TimeoutExpired
            ):  # stuck in the kernel: no signal reaches it, so it is left behind
                log.error("NVML process %d does not end; it is stuck in the driver", child.pid)


class Answering(Protocol):
    """Who makes the calls in the child."""

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """The result of the `NVML` method of that name. Raises `NVMLFault`."""


class _RealNVML:
    def __init__(self) -> None:
        self._nvml = NVML()

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self._nvml, method)(*arguments)


class _SimulatedNVML:
    """A simulator that is opened at the first request, and anew after it could not be used.

    So a wrong model or a damaged state file is an answer that names it, and heals when it is corrected.
    """

    def __init__(self, options: Simulation) -> None:
        self._options = options
        self._nvml: NVML | None = None

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        from tessera.gpu.simulator.state import DamagedState

        try:
            if self._nvml is None:
                self._nvml = self._open()
            return getattr(self._nvml, method)(*arguments)
        except (DamagedState, UnknownModel, OSError, ValueError) as error:
            self._nvml = None
            raise NVMLFault(SIMULATOR_UNUSABLE, call=method, detail=str(error)) from error

    def _open(self) -> NVML:
        from tessera.gpu.simulator.library import SimulatedLibrary

        options = self._options
        if not 0 <= options.count <= MOST_SIMULATED_GPUS:
            raise ValueError(f"--simulate-count {options.count} is not 0..{MOST_SIMULATED_GPUS}")
        return NVML(
            SimulatedLibrary.at(
                Path(options.state_dir), model=options.model, count=options.count, seed=options.seed
            )
        )


def _open(simulation: str) -> Answering:
    return _SimulatedNVML(Simulation(**json.loads(simulation))) if simulation else _RealNVML()


def serve(connection: Connection, nvml: Answering) -> None:
    """Answer requests until the other end closes: a result, or the fault as a value."""
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, ConnectionError):
            return
        try:
            connection.send(nvml.answer(method, arguments))
        except NVMLFault as fault:
            connection.send(fault)


def main() -> None:
    """Entry of the child: `nvml_process FD SIMULATION_JSON`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to the whole group; the agent decides when we end
    serve(Connection(int(sys.argv[1])), _open(sys.argv[2]))


if __name__ == "__main__":
    main()
