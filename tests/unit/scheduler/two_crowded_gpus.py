"""Two H100s on which a half fits nowhere, though what is in its way could go elsewhere.

The planner is the real one and sees API objects alone; `Cluster` does to these objects what a writer, a
kubelet and a Job controller would do, so that a test goes through a move round by round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from scheduler_objects import device_name, exactly
from tessera.placement.policies import FragmentationTenancy
from tessera.scheduler.actions import (
    Action,
    Evict,
    FreeTarget,
    GiveUp,
    HoldTarget,
    KeepRoom,
    NoteDepartures,
    Place,
)
from tessera.scheduler.move_bodies import placeholder
from tessera.scheduler.move_records import write_room
from tessera.scheduler.moving.ration import Account, Unlimited
from tessera.scheduler.moving.steps import Moving
from tessera.scheduler.planner import Planner

SYSTEM = "tessera-system"
A, B = "gpu-aaaaaaaa", "gpu-bbbbbbbb"


class Earned(Unlimited):
    """Moves are always earned; of preemptions, what left in this hour counts."""

    def preemptable_now(self, now: float) -> int:
        return Account.preemptable_now(self, now)


def a_planner() -> Planner:
    policy = FragmentationTenancy()
    return Planner(policy, grace_seconds=30.0, moving=Moving(policy, account=Earned))


@dataclass
class Cluster:
    """The API objects, the planner that decides from them, and what the others of a cluster would do."""

    world: Any
    planner: Planner
    evicted: list[str] = field(default_factory=list)
    note: str = ""
    """On the Lease: who has left."""

    def add_victim(self, name: str, profile: str, device: str, *, node: str, **pod: Any) -> None:
        """A running pod of an Indexed Job with its slice."""
        annotations = pod.pop("annotations", {"tessera.dev/movable": "true"})
        self.add_job_pod(name, profile, annotations=annotations, **pod)
        self.world.allocate(name, device, node=node, pod=name, since=-100.0)
        self.run(name, node)

    def add_job_pod(self, name: str, profile: str, *, job: str = "job", index: str = "0", **pod: Any) -> None:
        claim = self.world.add_claim(name, exactly(profile))
        claim["metadata"]["ownerReferences"] = [
            {"kind": "Pod", "name": name, "uid": f"pod-{name}", "controller": True}
        ]
        made = self.world.add_pod(name, **pod)
        made["metadata"]["ownerReferences"] = [{"kind": "Job", "name": job, "uid": job, "controller": True}]
        made["metadata"]["labels"] = {"batch.kubernetes.io/job-completion-index": index}
        made["spec"]["resourceClaims"] = [{"name": "slice", "resourceClaimTemplateName": "template"}]
        made["status"]["resourceClaimStatuses"] = [{"name": "slice", "resourceClaimName": name}]

    def run(self, name: str, node: str) -> None:
        pod = self.world.pods[name]
        pod["spec"]["schedulingGates"] = []
        pod["spec"]["nodeName"] = node
        pod["status"]["phase"] = "Running"
        self.world.touch(pod)

    def go(self, name: str) -> None:
        """The pod is gone, and kube-controller-manager has freed its claim."""
        del self.world.pods[name], self.world.claims[name]

    def end(self, name: str) -> None:
        """The pod is asked to end and takes its time."""
        self.world.pods[name]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self.world.touch(self.world.pods[name])

    def round(
        self, *, seconds: float = 1.0, lose: Callable[[Action], bool] = lambda _: False
    ) -> list[Action]:
        """A round, and its writes but for those that get lost."""
        self.world.now += seconds
        actions = self.planner.plan(self.world.snapshot())
        for action in actions:
            if not lose(action):
                self.write(action)
        return actions

    def write(self, action: Action) -> None:
        claims = self.world.claims
        match action:
            case Place(pods, frees):
                for free in frees:
                    del claims[free.key[1]]
                for placed in pods:
                    self.world.hand_over(placed)
                    for one in placed.claims:
                        self.run(placed.pod.key[1], one.node)
            case HoldTarget():
                made = placeholder(action, namespace=SYSTEM)
                made["metadata"] |= {"uid": f"claim-{action.name}"}
                claims[action.name] = self.world.touch(made)
                self.world.allocate(action.name, action.result.device, node=action.node)
            case KeepRoom(claim, record):
                annotations = claims[claim.key[1]]["metadata"].setdefault("annotations", {})
                annotations.pop("tessera.dev/room", None)
                if record is not None:
                    annotations["tessera.dev/room"] = write_room(record)
                self.world.touch(claims[claim.key[1]])
            case FreeTarget(claim, _):
                del claims[claim.key[1]]
            case Evict(pod, _, _):
                self.evicted.append(pod.key[1])
            case NoteDepartures(text):
                self.note = text
            case GiveUp(claim, _, _):
                claims[claim.key[1]]["status"] = {}
                self.world.touch(claims[claim.key[1]])

    def restart(self) -> None:
        """Another leader takes over."""
        self.planner = a_planner()
        self.planner.moving.remember(self.note)

    @property
    def placeholders(self) -> list[str]:
        return [n for n, c in self.world.claims.items() if c["metadata"]["namespace"] == SYSTEM]

    def device(self, claim: str) -> str | None:
        allocation = (self.world.claims[claim].get("status") or {}).get("allocation")
        return allocation["devices"]["results"][0]["device"] if allocation else None

    def ask(self, name: str = "waiting", profile: str = "3g.40gb", **pod: Any) -> None:
        """A pod that needs room, with a named claim."""
        self.world.add_pod_with_claim(name, profile, **pod)


def with_fixed_slices(world: Any, third: str) -> Cluster:
    """Both GPUs may take part in moves, and `fix_slices` has been there."""
    made = Cluster(world, a_planner())
    world.allow_moves("pool", A, B)
    fix_slices(made, A, B, third)
    return made


def fix_slices(cluster: Cluster, one: str, other: str, third: str, *, job: str = "fixed") -> None:
    """A half of both GPUs is taken for good, and so is the slice of the profile `third` in the middle of the
    other one.
    """
    slices = ((one, "3g.40gb", 0), (other, "3g.40gb", 0), (other, third, 4))
    for index, (gpu, profile, start) in enumerate(slices):
        name, device = f"{job}-{'abc'[index]}", device_name(gpu, profile, start)
        pod: dict[str, Any] = {"job": job, "index": str(index), "annotations": {}}
        cluster.add_victim(name, profile, device, node=f"node-{gpu[-1]}", **pod)


def of(actions: list[Action], kind: type) -> list[Any]:
    return [action for action in actions if isinstance(action, kind)]


def begin(cluster: Cluster) -> None:
    """The plan is made and the victim is asked to leave."""
    cluster.ask()
    cluster.round()
    assert len(cluster.placeholders) == 1
    cluster.round()
    assert cluster.evicted == ["victim"]


def nowhere_to_move_to(cluster: Cluster) -> None:
    """b is full, so that only preemption makes room."""
    cluster.add_victim("full", "1g.10gb", f"{B}-1g-10gb-6", node="node-b", annotations={}, job="full")
    cluster.world.allow_moves("pool", A, B, preemption="LowerPriority")
