"""The scheduler's client on the simulated API server, with everything that can go wrong in between; and time
that passes only when nobody has anything to do.

Faults are drawn from one seeded generator, so a run can be repeated. A killed process is a client whose calls
never return; what it had sent is written or not, as chance wants it. A stopped process (SIGSTOP) is one whose
calls wait and whose clock stands still, and which believes, when it goes on, that nothing has happened.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from simulation.api_store import Object, Store
from tessera.kube.client import KubeClient, ObjectList, WatchEvent
from tessera.kube.errors import ApiError, Conflict, Gone, TooManyRequests, Unreachable
from tessera.kube.resources import EVENTS, NODES, PODS, RESOURCE_SLICES, Resource

T = TypeVar("T")


def _everything(_: Object) -> bool:
    return True


_SELECTORS: dict[str, Callable[[Object], bool]] = {
    "status.phase!=Succeeded,status.phase!=Failed": lambda o: (
        (o.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ),
    "spec.driver=gpu.tessera.dev": lambda o: o["spec"]["driver"] == "gpu.tessera.dev",
}


@dataclass
class Faults:
    """Chances per call, and of watches per event. All zero: a quiet network with some latency."""

    seed: int = 0
    refused: float = 0.0
    """409, 429 or 5xx, with nothing done."""
    lost: float = 0.0
    """No answer: half of the time the request was done all the same."""
    late: float = 0.0
    """A watch event that comes seconds later."""
    late_only: str = ""
    """The plural of the only resource whose events are late; "" for all."""
    doubled: float = 0.0
    """A watch event that comes twice."""
    missed: float = 0.0
    """A watch event that never comes; the watch expires some seconds later and everything is listed anew."""
    cut: float = 0.0
    """A watch that breaks and is resumed."""
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def stop(self) -> None:
        """From now on all goes well."""
        self.refused = self.lost = self.late = self.doubled = self.missed = self.cut = 0.0


class SimulatedClient(KubeClient):
    """A client of one replica. `calls` counts; at call number `dies_at` the process is killed."""

    def __init__(self, store: Store, faults: Faults, *, identity: str, dies_at: int | None = None) -> None:
        self.identity = identity
        self.calls = 0
        self.dies_at = dies_at
        self.dead = asyncio.Event()
        self._store = store
        self._faults = faults
        self._running = asyncio.Event()
        self._running.set()
        self._stopped_at: float | None = None

    # The process.

    def kill(self) -> None:
        """Nothing that it does from now on reaches anybody."""
        self.dead.set()

    def pause(self) -> None:
        """SIGSTOP."""
        self._stopped_at = asyncio.get_running_loop().time()
        self._running.clear()

    def resume(self) -> None:
        """SIGCONT."""
        self._stopped_at = None
        self._running.set()

    def clock(self) -> float:
        """The process's monotonic clock."""
        return asyncio.get_running_loop().time() if self._stopped_at is None else self._stopped_at

    # What the scheduler calls.

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object:
        return await self._call(lambda: self._store.get(resource, name, namespace), write=False)

    async def list(self, resource: Resource, namespace: str | None = None, **more: Any) -> ObjectList:
        admitted = _SELECTORS.get(more.get("field_selector") or "", _everything)

        def read() -> ObjectList:
            return ObjectList([o for o in self._store.all(resource) if admitted(o)], str(self._store.version))

        return await self._call(read, write=False)

    async def create(self, resource: Resource, obj: Any, **more: Any) -> Object:
        if resource is EVENTS:
            return dict(obj)
        return await self._call(lambda: self._store.create(resource, obj, more.get("namespace")))

    async def replace(self, resource: Resource, obj: Any, **more: Any) -> Object:
        return await self._call(lambda: self._store.replace(resource, dict(obj)))

    async def patch(
        self, resource: Resource, name: str, *, namespace: str | None = None, body: Any, kind: str = "merge",
        subresource: str | None = None, dry_run: bool = False,
    ) -> Object:  # fmt: skip
        if resource is EVENTS:
            return dict(body)
        return await self._call(
            lambda: self._store.patch(
                resource, name, namespace, body, kind=kind, subresource=subresource, writer=self.identity
            )
        )

    async def delete(
        self, resource: Resource, name: str, *, namespace: str | None = None, uid: str | None = None,
        **more: Any,
    ) -> None:  # fmt: skip
        await self._call(lambda: self._store.delete(resource, name, namespace, uid=uid))

    async def evict(
        self, name: str, *, namespace: str, uid: str | None = None, grace_seconds: int | None = None
    ) -> None:
        await self._call(lambda: self._store.evict(name, namespace, uid=uid, writer=self.identity))

    async def watch(
        self, resource: Resource, namespace: str | None = None, *, resource_version: str | None = None,
        **more: Any,
    ) -> AsyncIterator[WatchEvent]:  # fmt: skip
        admitted = _SELECTORS.get(more.get("field_selector") or "", _everything)
        seen = int(resource_version or 0)
        faults, rng = self._faults, self._faults.rng
        # Nodes and devices say so seldom something that a missed event would be a matter of luck.
        fragile = resource not in (NODES, RESOURCE_SLICES)
        expires_at: float | None = None
        changed = asyncio.Event()
        self._store.wakers[changed] = None
        while True:
            await self._alive()
            changed.clear()
            for version, kind, obj in list(self._store.changes(resource, seen)):
                seen = version
                lagging = fragile and faults.late_only in ("", resource.plural)
                if lagging and rng.random() < faults.late:
                    await asyncio.sleep(rng.uniform(0.5, 3.0))
                await self._alive()
                if fragile and rng.random() < faults.cut:
                    raise Unreachable("the watch broke", "connection reset")
                if fragile and rng.random() < faults.missed:
                    expires_at = expires_at or asyncio.get_running_loop().time() + rng.uniform(1.0, 8.0)
                    continue
                # What leaves a selected list is told as deleted.
                kind = kind if admitted(obj) else "DELETED"
                for _ in range(2 if fragile and rng.random() < faults.doubled else 1):
                    yield WatchEvent(kind, obj)
            try:
                async with asyncio.timeout_at(expires_at):
                    await changed.wait()
            except TimeoutError:
                raise Gone(410, "Expired", "too old resource version") from None
            # Before chance is asked: the dead must not draw, or runs would depend on garbage collection.
            await self._alive()
            await asyncio.sleep(rng.uniform(0.005, 0.03))

    # The network.

    async def _call(self, act: Callable[[], T], *, write: bool = True) -> T:
        faults, rng = self._faults, self._faults.rng
        self.calls += 1
        last = self.calls == self.dies_at
        await self._alive()
        await asyncio.sleep(rng.uniform(0.001, 0.02))
        await self._alive()
        if last:
            if rng.random() < 0.5:
                _attempt(act)
            self.kill()
            await self._alive()
        if rng.random() < faults.refused:
            raise rng.choice(
                [
                    TooManyRequests(429, "TooManyRequests", "shedding load"),
                    ApiError(500, "InternalError", "etcd has no leader"),
                    ApiError(503, "ServiceUnavailable", "shutting down"),
                    Conflict(409, "Conflict", "the object has been modified"),
                ]
            )
        if rng.random() < faults.lost:
            if write and rng.random() < 0.5:
                _attempt(act)
            await asyncio.sleep(rng.choice([0.0, 0.5, 30.0]))
            await self._alive()
            raise Unreachable("no answer", "connection reset")
        answer = act()
        await asyncio.sleep(rng.uniform(0.001, 0.02))
        await self._alive()
        return answer

    async def _alive(self) -> None:
        await self._running.wait()
        if self.dead.is_set():
            await asyncio.Event().wait()


def _attempt(act: Callable[[], Any]) -> None:
    """A request whose answer nobody will see."""
    try:
        act()
    except ApiError:
        return


class _Idle(selectors.SelectSelector):
    """Instead of waiting, moves the loop's clock to when something is due."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise AssertionError("nothing will ever happen again: every task waits for another")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time: an hour of sleeping costs nothing."""

    def __init__(self) -> None:
        self._idle = _Idle()
        super().__init__(self._idle)

    def time(self) -> float:
        return self._idle.now


def run_virtually(main: Coroutine[Any, Any, None], *, seed: int) -> None:
    """Run to the end in virtual time, with all chance seeded."""
    random.seed(seed)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


__all__ = ["PODS", "Faults", "SimulatedClient", "VirtualLoop", "run_virtually"]
