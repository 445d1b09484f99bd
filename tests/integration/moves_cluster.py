"""A partition that allows moves, with simulated nodes whose pods run, end and are replaced; and replicas of
the scheduler that die on request.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from background import in_background
from eventually import eventually
from integration.scheduler_cluster import Cluster, resource_slices
from scheduler_objects import Object, device_name, exactly
from tessera.api import names
from tessera.kube.client import KubeClient
from tessera.kube.errors import NotFound, Unreachable
from tessera.kube.events import EventRecorder
from tessera.kube.resources import (
    EVENTS,
    GPU_NODES,
    JOBS,
    LEASES,
    MIG_PARTITIONS,
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    RESOURCE_CLAIMS,
    RESOURCE_SLICES,
    Resource,
)
from tessera.local.kwok import DURATION_ANNOTATION, simulated_node
from tessera.scheduler.actions import Place, PodPlacement
from tessera.scheduler.allocation import ClaimPlacement, Result
from tessera.scheduler.loop import Scheduler, Settings
from tessera.scheduler.objects import read_claim, read_pod
from tessera.scheduler.writer import Writer

INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
EARNER = "earner"
_PRIORITY_CLASSES = "/apis/scheduling.k8s.io/v1/priorityclasses"


class MovesCluster(Cluster):
    """One partition per test."""

    def __init__(self, client: KubeClient, namespace: str) -> None:
        super().__init__(client, namespace)
        self._priority_classes: list[str] = []

    async def add_node(self, letter: str, *, cpu: str = "8", whole: Sequence[str] = ()) -> str:
        """A simulated node with one GPU. Its pods run; an evicted one of a Job fails, then goes."""
        name = f"{self.namespace}-{letter}"
        self.nodes.append(name)
        node = simulated_node(name)
        node["metadata"]["labels"]["test"] = self.namespace
        await self.client.create(NODES, node)

        async def ready() -> bool:
            found = await self.client.get(NODES, name)
            conditions = {c["type"]: c["status"] for c in found["status"].get("conditions") or ()}
            return conditions.get("Ready") == "True" and not found["spec"].get("taints")

        await eventually(f"node {name} Ready and without taints", ready)
        for obj in resource_slices(name, self.gpu(letter), whole=whole):
            await self.client.create(RESOURCE_SLICES, obj)
        uuid = f"GPU-{self.gpu(letter).removeprefix('gpu-')}"
        entry = {"uuid": uuid, "partition": self.namespace, "migMode": "Enabled"}
        await self.client.create(GPU_NODES, {"metadata": {"name": name}, "spec": {"gpus": [entry]}})
        return name

    async def allow_moves(self, *, defragmentation: Object | None = None, **rule: Any) -> None:
        """The partition of all nodes of this test."""
        dynamic = {"moves": {"per100Placements": 100, **rule}}
        spec = {
            "nodeSelector": {"matchLabels": {"test": self.namespace}},
            "mode": "dynamic",
            "dynamic": dynamic if defragmentation is None else dynamic | {"defragmentation": defragmentation},
        }
        await self.client.create(MIG_PARTITIONS, {"metadata": {"name": self.namespace}, "spec": spec})

    async def add_job(
        self,
        name: str,
        profile: str,
        *,
        completions: int = 1,
        movable: bool = True,
        priority_class: str | None = None,
    ) -> list[str]:
        """An Indexed Job whose pods wait for a slice each; returns the names of its pods by index."""
        await self.add_template(name, exactly(profile))
        annotations = {DURATION_ANNOTATION: "1h"}
        if movable:
            annotations[names.MOVABLE_ANNOTATION] = "true"
        ignore = {
            "action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
        }
        spec = {
            "completions": completions,
            "parallelism": completions,
            "completionMode": "Indexed",
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [ignore]},
            "template": {
                "metadata": {"annotations": annotations, "labels": {"job": name}},
                "spec": {
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 1,
                    "schedulingGates": [{"name": names.PLACEMENT_GATE}],
                    "nodeSelector": {"test": self.namespace},
                    "resourceClaims": [{"name": "slice", "resourceClaimTemplateName": name}],
                    "containers": [
                        {
                            "name": "main",
                            "image": "example.invalid/none",
                            "resources": {"requests": {"cpu": "1"}, "claims": [{"name": "slice"}]},
                        }
                    ],
                    **({"priorityClassName": priority_class} if priority_class else {}),
                },
            },
        }
        await self.client.create(JOBS, {"metadata": {"name": name}, "spec": spec}, namespace=self.namespace)

        async def made() -> list[str]:
            found = await self.members(name)
            return [found[index]["metadata"]["name"] for index in sorted(found)]

        async def complete() -> list[str]:
            found = await made()
            return found if len(found) == completions else []

        return list(await eventually(f"{completions} pods of Job {name}", complete))

    async def members(self, job: str) -> dict[str, Object]:
        """The Job's pods that are there to stay, by completion index."""
        pods = (await self.client.list(PODS, self.namespace, label_selector=f"job={job}")).items
        return {
            pod["metadata"]["labels"][INDEX_LABEL]: pod
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] in ("Pending", "Running")
        }

    async def put(self, pod_name: str, letter: str, profile: str, start: int) -> None:
        """Give a waiting pod this very place, as an earlier leader would have, and see it run."""
        node, device = f"{self.namespace}-{letter}", device_name(self.gpu(letter), profile, start)

        async def made() -> str:
            return read_pod(await self.pod(pod_name)).claims[0].claim or ""

        claim = read_claim(await self.claim(await eventually(f"the claim of pod {pod_name}", made)))
        placement = ClaimPlacement(claim, node, (Result("slice", node, device, profile=profile),))
        placed = PodPlacement(read_pod(await self.pod(pod_name)), (placement,))

        async def nobody_else_leads() -> None:
            """No scheduler runs yet."""

        events = EventRecorder(self.client, component="scheduler")
        writer = Writer(self.client, events=events, verify=nobody_else_leads)
        await writer.carry_out([Place((placed,))], now=time.time())
        await self.running(pod_name)

    async def gpus_of(self, job: str) -> set[str]:
        """The GPUs on which the Job's pods run."""
        members = (await self.members(job)).values()
        claims = [read_pod(pod).claims[0].claim for pod in members if pod["status"]["phase"] == "Running"]
        devices: list[str] = []
        for claim in filter(None, claims):
            with suppress(NotFound):  # A pod that was evicted since then takes its claim along.
                devices += await self.devices(claim)
        return {device[: len(self.gpu("a"))] for device in devices}

    async def running(self, name: str) -> Object:
        async def runs() -> Object | None:
            pod = await self.pod(name)
            return pod if pod["status"]["phase"] == "Running" else None

        async def state() -> object:
            return (await self.pod(name))["status"], await self.reasons(name)

        return dict(await eventually(f"pod {name} running", runs, state=state))

    async def earn(self, count: int, *, unless: Callable[[], Awaitable[bool]] | None = None) -> None:
        """Pods come, are placed, and go: what the ration of moves is earned with. `unless`: they go unplaced
        when that comes true.
        """
        made = [f"{EARNER}-{number}" for number in range(count)]
        for name in made:
            await self.add_claim(name, exactly("1g.10gb"))
            await self.add_pod(name, claim=name)

        async def placed() -> bool:
            pods = [await self.pod(name) for name in made]
            return all(p["spec"].get("nodeName") for p in pods) or (unless is not None and await unless())

        await eventually("the earners placed", placed)
        for name in made:
            await self.delete_pod(name)
        for name in made:
            await self.client.delete(RESOURCE_CLAIMS, name, namespace=self.namespace)
            await eventually(f"claim {name} gone", partial(self.is_gone, RESOURCE_CLAIMS, name))

    async def placeholders(self) -> list[Object]:
        claims = (await self.client.list(RESOURCE_CLAIMS, self.namespace)).items
        return [c for c in claims if names.MOVE_ANNOTATION in (c["metadata"].get("annotations") or {})]

    async def marked(self) -> list[Object]:
        """Claims with a record of a move."""
        claims = (await self.client.list(RESOURCE_CLAIMS, self.namespace)).items
        marks = {names.MOVE_ANNOTATION, names.ROOM_ANNOTATION}
        return [c for c in claims if marks & (c["metadata"].get("annotations") or {}).keys()]

    async def room_of(self, claim: str) -> str:
        return await self.annotation(claim, names.ROOM_ANNOTATION)

    async def settled(self, *, seconds: float = 30.0) -> None:
        """No placeholder and no room is left."""

        async def nothing_left() -> bool:
            return not await self.marked()

        await eventually("the end of all moves", nothing_left, seconds=seconds, state=self.placeholders)

    async def add_priority_class(self, value: int) -> str:
        """A PriorityClass for this test; returns its name."""
        body = {"metadata": {"name": self.namespace}, "value": value}
        await self.client.raw("POST", _PRIORITY_CLASSES, body=body)
        self._priority_classes.append(self.namespace)
        return self.namespace

    async def forbid_evictions(self, job: str, *, pods: int) -> None:
        """All of the Job's pods must stay. (A Job has no scale from which the budget could count them.)"""
        spec = {"minAvailable": pods, "selector": {"matchLabels": {"job": job}}}
        await self.client.create(
            POD_DISRUPTION_BUDGETS, {"metadata": {"name": job}, "spec": spec}, namespace=self.namespace
        )

        async def seen() -> bool:
            budget = await self.client.get(POD_DISRUPTION_BUDGETS, job, self.namespace)
            status = budget.get("status") or {}
            return status.get("observedGeneration") == 1 and status.get("currentHealthy") == pods

        await eventually("the disruption budget in force", seen)

    async def clean_up(self) -> None:
        for job in (await self.client.list(JOBS, self.namespace)).items:
            await self.client.delete(
                JOBS, job["metadata"]["name"], namespace=self.namespace, propagation="Background"
            )
        for name in self._priority_classes:
            await self.client.raw("DELETE", f"{_PRIORITY_CLASSES}/{name}")
        with suppress(NotFound):
            await self.client.delete(MIG_PARTITIONS, self.namespace)
        for node in self.nodes:
            await self.client.delete(GPU_NODES, node)
        await super().clean_up()


class Clock:
    """The wall clock of a scheduler; a test may put it forward."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_seconds


class MortalClient(KubeClient):
    """A client of a process that is killed: after its n-th write, or after an eviction, nothing that it does
    reaches anybody, and the answer of that write is lost. Leases and events do not count, nor does what earns
    the ration.
    """

    writes_left = 1_000_000
    dead = False
    written: tuple[str, ...] = ()

    async def _json(self, method: str, path: str, resource: Resource, **more: Any) -> Object:
        if self.dead:
            raise Unreachable("no answer from the API server", "the process was killed")
        counts = method != "GET" and resource not in (LEASES, EVENTS) and f"/{EARNER}" not in path
        if names.PLACEMENT_MESSAGE_ANNOTATION in str(more.get("body")):
            # What a pod is told while it waits changes with everything.
            counts = False
        if counts:
            if self.writes_left <= 0:
                self.dead = True
                raise Unreachable("no answer from the API server", "the process was killed")
            self.writes_left -= 1
        answer = await super()._json(method, path, resource, **more)
        if counts:
            self.written = (*self.written, f"{method} {path.rpartition('/namespaces/')[2]}")
            if self.writes_left <= 0 or path.endswith("/eviction"):
                self.dead = True
                raise Unreachable("no answer from the API server", "the process was killed")
        return answer


@asynccontextmanager
async def replica(client: KubeClient, namespace: str, clock: Clock) -> AsyncIterator[None]:
    """One replica of the scheduler in this process; it is cancelled at the end, as by SIGTERM."""
    settings = Settings(lease_namespace=namespace, identity="scheduler-0", settle_seconds=0.1)
    async with in_background(Scheduler(client, settings, clock=clock).run()):
        yield
