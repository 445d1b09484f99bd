"""What must hold at every moment of every test that runs a cluster, and a watcher that checks it.

The rules, over all ResourceClaims, ResourceSlices and GPUNodes:

- no two allocated placements overlap on a GPU;
- no two instances of a GPUNode overlap on a GPU;
- no claim points to a device that is in no ResourceSlice, for longer than 5 s (slices are published anew
  now and then, and the three watches are not in step);
- no instance is InUse without an allocated claim that owns it, for longer than 10 s (unprepare comes
  after the claim);
- no instance is Foreign, which is one that the node's agent did not make, for longer than 10 s (no test
  makes any, so it is one that the agent made and lost).

`check` is pure and judges one moment. `Grace` keeps what lasted too long. `InvariantChecker` watches in a
thread of its own, so that it goes on while the test blocks:

    with InvariantChecker(kubeconfig) as checker:
        ...
    # leaving raises AssertionError with all violations
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from types import TracebackType
from typing import Any

from tessera.api import names
from tessera.kube.backoff import Backoff
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound
from tessera.kube.informer import Informer
from tessera.kube.resources import GPU_NODES, RESOURCE_CLAIMS, RESOURCE_SLICES, Resource

Object = Mapping[str, Any]

MISSING_DEVICE_GRACE_SECONDS = 5.0
OWNERLESS_GRACE_SECONDS = 10.0
TICK_SECONDS = 0.5
SYNC_SECONDS = 30.0


@dataclass(frozen=True)
class Violation:
    """A broken rule at one moment. It counts once it has lasted `grace_seconds`; equal violations are one."""

    rule: str
    subject: str
    message: str
    grace_seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


@dataclass(frozen=True)
class Placement:
    """Where a device lies: memory slices [start, start + width) of a GPU."""

    gpu: str
    start: int
    width: int

    def overlaps(self, other: Placement) -> bool:
        return (
            self.gpu == other.gpu
            and self.start < other.start + other.width
            and other.start < self.start + self.width
        )

    def __str__(self) -> str:
        return f"slices {self.start}-{self.start + self.width - 1} of {self.gpu}"


Devices = Mapping[tuple[str, str], Placement]


def devices_of(slices: Iterable[Object]) -> dict[tuple[str, str], Placement]:
    """(pool, device) -> placement, of our driver's slices of each pool's newest generation."""
    ours = [item["spec"] for item in slices if item["spec"].get("driver") == names.DRIVER]
    newest: dict[str, int] = {}
    for spec in ours:
        pool = spec["pool"]
        newest[pool["name"]] = max(newest.get(pool["name"], 0), int(pool["generation"]))
    found = {}
    for spec in ours:
        pool = spec["pool"]
        if int(pool["generation"]) != newest[pool["name"]]:
            continue
        for device in spec.get("devices") or []:
            attributes = device["attributes"]
            found[pool["name"], device["name"]] = Placement(
                gpu=attributes[names.ATTRIBUTE_GPU_UUID]["string"],
                start=int(attributes[names.ATTRIBUTE_START]["int"]),
                width=int(attributes[names.ATTRIBUTE_MEMORY_SLICES]["int"]),
            )
    return found


def allocations_of(claim: Object) -> list[tuple[str, str]]:
    """The (pool, device) pairs of our driver that a claim holds. A claim being deleted still holds them."""
    allocation = (claim.get("status") or {}).get("allocation") or {}
    results = (allocation.get("devices") or {}).get("results") or []
    return [
        (result["pool"], result["device"])
        for result in results
        if result["driver"] == names.DRIVER and not result.get("adminAccess")
    ]


def check(claims: Iterable[Object], slices: Iterable[Object], gpunodes: Iterable[Object]) -> list[Violation]:
    """All rules that are broken now."""
    return judge(list(claims), devices_of(slices), gpunodes)


def judge(
    claims: Sequence[Object], published: Devices, gpunodes: Iterable[Object], *, known: Devices | None = None
) -> list[Violation]:
    """As `check`, for published devices that are decoded already.

    `known` is every device ever published: a claim may hold one that is not published now, and it still
    lies where it lay.
    """
    holdings = {
        (claim["metadata"]["uid"], pool, device) for claim in claims for pool, device in allocations_of(claim)
    }
    return [
        *_overlapping_claims(claims, published if known is None else known),
        *_missing_devices(claims, published),
        *(violation for node in gpunodes for violation in _node_violations(node, holdings)),
    ]


def _overlapping_claims(claims: Sequence[Object], placements: Devices) -> list[Violation]:
    on_gpu: defaultdict[str, list[tuple[str, Placement]]] = defaultdict(list)
    for claim in claims:
        for pool, device in allocations_of(claim):
            placement = placements.get((pool, device))
            if placement is not None:
                on_gpu[placement.gpu].append((f"claim {_name(claim)} on {device}", placement))
    return [
        Violation("overlapping claims", f"{one} / {other}", f"{one} ({here}) overlaps {other} ({there})")
        for held in on_gpu.values()
        for (one, here), (other, there) in combinations(sorted(held, key=str), 2)
        if here.overlaps(there)
    ]


def _missing_devices(claims: Sequence[Object], published: Devices) -> list[Violation]:
    return [
        Violation(
            "missing device",
            f"{_name(claim)} {pool}/{device}",
            f"claim {_name(claim)} holds device {device} of pool {pool}, which no ResourceSlice has",
            MISSING_DEVICE_GRACE_SECONDS,
        )
        for claim in claims
        for pool, device in allocations_of(claim)
        if (pool, device) not in published
    ]


def _node_violations(node: Object, holdings: set[tuple[str, str, str]]) -> list[Violation]:
    name = node["metadata"]["name"]
    found: list[Violation] = []
    for gpu in (node.get("status") or {}).get("gpus") or []:
        instances = gpu.get("instances") or []
        placed = [
            (instance["device"], Placement(gpu["uuid"], int(instance["start"]), int(instance["size"])))
            for instance in instances
        ]
        found += [
            Violation(
                "overlapping instances",
                f"{name} {one} / {other}",
                f"instances {one} ({here}) and {other} ({there}) of node {name} overlap",
            )
            for (one, here), (other, there) in combinations(placed, 2)
            if here.overlaps(there)
        ]
        for instance in instances:
            if instance["state"] == "Foreign":
                found.append(
                    Violation(
                        "foreign instance",
                        f"{name} {gpu['uuid']} {instance['device']}",
                        f"instance {instance['device']} of node {name} is Foreign: not made by its agent",
                        OWNERLESS_GRACE_SECONDS,
                    )
                )
            owner = instance.get("claim") or {}
            if instance["state"] == "InUse" and (owner.get("uid"), name, instance["device"]) not in holdings:
                who = f"claim {owner.get('namespace')}/{owner.get('name')}" if owner else "no claim"
                found.append(
                    Violation(
                        "instance without an owner",
                        f"{name} {instance['device']} {owner.get('uid')}",
                        f"instance {instance['device']} of node {name} is InUse by {who}; no claim holds it",
                        OWNERLESS_GRACE_SECONDS,
                    )
                )
    return found


def _name(claim: Object) -> str:
    metadata = claim["metadata"]
    return f"{metadata.get('namespace', '')}/{metadata['name']}"


class Grace:
    """Turns what is wrong at each moment into what has been wrong for too long, and tells each thing once."""

    def __init__(self) -> None:
        self._since: dict[Violation, float] = {}
        self._told: set[Violation] = set()

    def judge(self, present: Iterable[Violation], *, now: float) -> list[Violation]:
        """The violations that count since this moment; `now` is a monotonic time in seconds."""
        present = set(present)
        self._since = {violation: self._since.get(violation, now) for violation in present}
        due = [
            violation
            for violation, since in self._since.items()
            if now - since >= violation.grace_seconds and violation not in self._told
        ]
        self._told.update(due)
        return sorted(due, key=str)


class InvariantChecker:
    """Watches a cluster from a thread until the `with` block ends; see the module's text.

    With `newcomers_only`, claims and GPUNodes that are there at the start are not judged: on a control plane
    that many tests share they are what earlier tests left behind, whose nodes are gone.

    `violations` grows as they happen. `claims_seen` and `gpunodes_seen` let a test assert that there was
    something to check. GPUNodes join when their CRD is installed, which may be later than the start.
    """

    def __init__(self, kubeconfig: Path | str, *, newcomers_only: bool = False) -> None:
        self.violations: list[str] = []
        self.claims_seen: set[str] = set()
        self.gpunodes_seen: set[str] = set()
        self._kubeconfig = kubeconfig
        self._newcomers_only = newcomers_only
        self._residents: set[str] = set()
        self._known: dict[tuple[str, str], Placement] = {}
        self._published: dict[tuple[str, str], Placement] | None = None
        self._grace = Grace()
        self._ready: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="invariants", daemon=True)

    def __enter__(self) -> InvariantChecker:
        self._thread.start()
        self._ready.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):
                # The loop has ended already when the watcher itself failed, which is in `violations`.
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self.violations and error is None:
            raise AssertionError("invariants were broken:\n" + "\n".join(self.violations))

    def _run(self) -> None:
        try:
            asyncio.run(self._watch())
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            else:
                self.violations.append(f"the invariant checker itself failed: {error!r}")

    async def _watch(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with await KubeClient.connect(self._kubeconfig, user_agent="tessera-invariants") as client:

            def changed(kind: str, obj: Object, old: Object | None) -> None:
                if obj["kind"] == RESOURCE_SLICES.kind:
                    self._published = None
                # Every state of the claims is judged, not only those that a tick happens to see.
                if self._ready.done():
                    self._judge(claims, slices, gpunodes)

            def follow(resource: Resource) -> Informer:
                return Informer(
                    client,
                    resource,
                    on_change=changed,
                    backoff=Backoff(first_seconds=0.2, limit_seconds=1.0),
                )

            claims, slices, gpunodes = map(follow, (RESOURCE_CLAIMS, RESOURCE_SLICES, GPU_NODES))
            for informer in (slices, claims, gpunodes):
                informer.start()
            try:
                await slices.wait_synced(SYNC_SECONDS)
                await claims.wait_synced(SYNC_SECONDS)
                if self._newcomers_only:
                    await self._know_residents(client)
                self._ready.set_result(None)
                while not self._stop.is_set():
                    self._judge(claims, slices, gpunodes)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(TICK_SECONDS):
                            await self._stop.wait()
                self._judge(claims, slices, gpunodes)
            finally:
                await asyncio.gather(*(informer.stop() for informer in (slices, claims, gpunodes)))

    async def _know_residents(self, client: KubeClient) -> None:
        # Asked for directly: the informer of GPUNodes waits for their CRD, which may never come.
        for resource in (RESOURCE_CLAIMS, GPU_NODES):
            with contextlib.suppress(NotFound):
                self._residents |= {one["metadata"]["uid"] for one in (await client.list(resource)).items}

    def _judge(self, claims: Informer, slices: Informer, gpunodes: Informer) -> None:
        if self._published is None:
            self._published = devices_of(slices.items())
            self._known |= self._published
        held, nodes = (
            [one for one in informer.items() if one["metadata"]["uid"] not in self._residents]
            for informer in (claims, gpunodes)
        )
        self.claims_seen |= {_name(claim) for claim in held}
        self.gpunodes_seen |= {node["metadata"]["name"] for node in nodes}
        present = judge(held, self._published, nodes, known=self._known)
        stamp = time.strftime("%H:%M:%S")
        self.violations += [f"{stamp} {late}" for late in self._grace.judge(present, now=time.monotonic())]
