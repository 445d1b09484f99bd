"""A simulated cluster in which pods may be moved: Indexed Jobs, kubelets that let pods end in their own time,
PodDisruptionBudgets that sometimes say no, and the rules that must hold while room is made.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from simulation.api_store import Object
from simulation.cluster_actors import Cluster, wall_clock
from tessera.api import names
from tessera.kube.resources import GPU_NODES, JOBS, MIG_PARTITIONS, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES
from tessera.scheduler.move_records import MoveRecord, RoomRecord, read_move, read_room

INDEX = "batch.kubernetes.io/job-completion-index"
KUBELET = "test/kubelet"


@dataclass(frozen=True)
class Job:
    """An Indexed Job; with `early` it replaces a pod while that one still ends."""

    uid: str
    profile: str
    size: int
    movable: bool
    priority: int
    early: bool


class MovingCluster(Cluster):
    """All GPUs belong to one partition that allows moves."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(rng)
        self.jobs: dict[str, Job] = {}
        self.broken: list[str] = []
        """What happened against the rules of moves."""
        self.evicted: set[str] = set()
        self.refusals = 0.0
        """The chance that a disruption budget says no."""
        self.longest_end_seconds = 3.0
        self._pod_numbers = itertools.count()
        self.store.may_be_disrupted = lambda pod: self.rng.random() >= self.refusals
        self.store.after_eviction.append(self._judge_eviction)

    # What is there.

    def add_node(self, name: str, *, gpus: int = 1, whole: int = 0, cpu: str = "16") -> None:
        super().add_node(name, gpus=gpus, whole=whole, cpu=cpu)
        uuids = {
            device["attributes"]["gpuUUID"]["string"]
            for obj in self.store.all(RESOURCE_SLICES)
            if obj["spec"]["nodeName"] == name
            for device in obj["spec"].get("devices") or ()
        }
        entries = [{"uuid": uuid, "partition": "pool"} for uuid in sorted(uuids)]
        self.store.create(GPU_NODES, {"metadata": {"name": name}, "spec": {"gpus": entries}})

    def allow_moves(self, **moves: Any) -> None:
        """Also when nobody waits, once a minute."""
        dynamic = {"moves": {"per100Placements": 100, **moves}, "defragmentation": {"everySeconds": 60}}
        spec = {"mode": "dynamic", "dynamic": dynamic}
        self.store.create(MIG_PARTITIONS, {"metadata": {"name": "pool"}, "spec": spec})

    def add_job(
        self, name: str, profile: str, *, size: int = 1, movable: bool = True, priority: int = 0
    ) -> None:
        made = self.store.create(JOBS, {"metadata": {"name": name}}, "default")
        uid = made["metadata"]["uid"]
        self.jobs[name] = Job(uid, profile, size, movable, priority, self.rng.random() < 0.5)

    def end_job(self, name: str) -> None:
        """The job is deleted; so are its pods."""
        pods = self.pods_of(name)
        del self.jobs[name]
        self.store.delete(JOBS, name, "default")
        for pod in pods:
            self.delete_pod(pod["metadata"]["name"])

    def pods_of(self, name: str) -> list[Object]:
        """The pods of a job that have not ended."""
        return [p for p in self._all_of(name) if p["status"]["phase"] not in ("Succeeded", "Failed")]

    def _all_of(self, name: str) -> list[Object]:
        uid = self.jobs[name].uid
        return [
            p
            for p in self.store.all(PODS)
            if any(owner["uid"] == uid for owner in p["metadata"].get("ownerReferences") or ())
        ]

    def placeholders(self) -> list[Object]:
        return [c for c in self.store.all(RESOURCE_CLAIMS) if _annotation(c, names.MOVE_ANNOTATION)]

    # Who acts.

    async def job_controller(self) -> None:
        """Makes the pods of jobs, and others in their place."""
        while True:
            await asyncio.sleep(self.rng.uniform(0.05, 0.4))
            for name, job in list(self.jobs.items()):
                for index in self._missing(name, job):
                    self._make_pod(name, job, index)

    def _missing(self, name: str, job: Job) -> Iterator[int]:
        there = {
            p["metadata"]["labels"][INDEX]
            for p in self._all_of(name)
            if p["status"]["phase"] == "Succeeded"
            or (p["status"]["phase"] != "Failed" and not (job.early and "deletionTimestamp" in p["metadata"]))
        }
        return (index for index in range(job.size) if str(index) not in there)

    def _make_pod(self, name: str, job: Job, index: int) -> None:
        metadata = {
            "annotations": {names.MOVABLE_ANNOTATION: "true"} if job.movable else {},
            "labels": {INDEX: str(index)},
            "ownerReferences": [{"kind": "Job", "name": name, "uid": job.uid, "controller": True}],
            "finalizers": [KUBELET],
        }
        self.add_pod(
            f"{name}-{index}-{next(self._pod_numbers)}", job.profile, priority=job.priority, metadata=metadata
        )

    async def kubelets(self) -> None:
        """Let pods end that were told to: bound ones in their own time."""
        ends_at: dict[str, float] = {}
        while True:
            await asyncio.sleep(self.rng.uniform(0.05, 0.2))
            for pod in [p for p in self.store.all(PODS) if "deletionTimestamp" in p["metadata"]]:
                uid, now = pod["metadata"]["uid"], wall_clock()
                grace = self.rng.uniform(0.0, self.longest_end_seconds) if pod["spec"].get("nodeName") else 0
                if now >= ends_at.setdefault(uid, now + grace):
                    pod = copy.deepcopy(pod)
                    pod["metadata"]["finalizers"] = []
                    self.store.update(PODS, pod)

    # What must hold.

    def _judge(self, kind: str, new: Object, old: Object | None) -> None:
        super()._judge(kind, new, old)
        if new["kind"] != RESOURCE_CLAIMS.kind or kind == "DELETED":
            return
        if _allocation(new) and not (old and _allocation(old)):
            self._judge_allocation(new)

    def _judge_allocation(self, claim: Object) -> None:
        """Nobody else gets a part of a room for which a pod was evicted already."""
        drawn = self._counters(*_allocation(claim))
        for other in self.store.all(RESOURCE_CLAIMS):
            record = self._kept_room(other)
            if record is None or other["metadata"]["uid"] == claim["metadata"]["uid"]:
                continue
            if drawn & self._counters((record.pool, record.device)):
                self.broken.append(f"{claim['metadata']['name']} in the room of {other['metadata']['name']}")

    def _kept_room(self, claim: Object) -> RoomRecord | None:
        """The room that nobody may give up now."""
        record = read_room(_annotation(claim, names.ROOM_ANNOTATION))
        if record is None or _allocation(claim) or not {v.uid for v in record.victims} & self.evicted:
            return None
        pods = [p["metadata"] for p in self.store.all(PODS)]
        alive = {metadata["uid"] for metadata in pods if "deletionTimestamp" not in metadata}
        owners = {owner["uid"] for owner in claim["metadata"].get("ownerReferences") or ()}
        stays = any(v.uid in alive for v in record.victims)
        until = record.evict_until if stays else record.deadline
        return record if owners & alive and wall_clock() < until else None

    def _judge_eviction(self, pod: Object, writer: str) -> None:
        """Only who allows it is evicted, with his new place held and the reason written down."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if not _annotation(pod, names.MOVABLE_ANNOTATION):
            self.broken.append(f"{name} does not allow to be moved")
        if writer != self._holder():
            return  # A replica that has just lost the Lease; nothing can fence that.
        rooms = [read_room(_annotation(c, names.ROOM_ANNOTATION)) for c in self.store.all(RESOURCE_CLAIMS)]
        named = [v for room in rooms if room is not None for v in room.victims if v.uid == uid]
        held = self._held_for(uid)
        compaction = None if held is None else held.compaction
        if not named and compaction is None:
            self.broken.append(f"{name} is evicted for nobody")
        elif held is None and not (named and named[0].preempted):
            self.broken.append(f"{name} is evicted without another place")
        if compaction is not None and self._neighbours(pod) - {v.uid for v in compaction.victims}:
            self.broken.append(f"{name} is evicted from a GPU that does not become empty")
        self.evicted.add(uid)

    def _held_for(self, uid: str) -> MoveRecord | None:
        """What is written of the place that is held for the pod's replacement."""
        records = (
            read_move(_annotation(c, names.MOVE_ANNOTATION)) for c in self.placeholders() if _allocation(c)
        )
        return next((r for r in records if r is not None and r.victim_pod.uid == uid), None)

    def _neighbours(self, pod: Object) -> set[str]:
        """UIDs of the pods with a slice of the pod's GPU."""
        owners = {
            claim["metadata"]["ownerReferences"][0]["uid"]: {
                gpu for gpu, _ in self._counters(*_allocation(claim))
            }
            for claim in self.store.all(RESOURCE_CLAIMS)
            if claim["metadata"].get("ownerReferences")
        }
        return {uid for uid, gpus in owners.items() if gpus & owners[pod["metadata"]["uid"]]}

    def _counters(self, *devices: tuple[str, str]) -> set[tuple[str, str]]:
        """(Counter set, memory slice) of these devices."""
        wanted = set(devices)
        return {
            (consumed["counterSet"], counter)
            for obj in self.store.all(RESOURCE_SLICES)
            for device in obj["spec"].get("devices") or ()
            if (obj["spec"]["pool"]["name"], device["name"]) in wanted
            for consumed in device["consumesCounters"]
            for counter in consumed["counters"]
            if counter.startswith("memory-slice")
        }


def _annotation(obj: Object, name: str) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(name, ""))


def _allocation(claim: Object) -> list[tuple[str, str]]:
    """(Pool, device) of all that a claim holds."""
    allocation = (claim.get("status") or {}).get("allocation")
    return [(r["pool"], r["device"]) for r in allocation["devices"]["results"]] if allocation else []
