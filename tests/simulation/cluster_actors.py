"""The rest of a cluster around the simulated API server: kube-controller-manager, kube-scheduler, kubelets
and users, each as far as the allocator meets them; and the rules that must hold at every write.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import random
from datetime import UTC, datetime

from invariants import Violation, check
from scheduler_objects import FOUR_PROFILES, exactly, resource_slices
from simulation.api_store import Object, Store
from tessera.api import names
from tessera.kube.resources import NODES, PODS, RESOURCE_CLAIMS, RESOURCE_SLICES

EPOCH = 1_790_000_000.0


def wall_clock() -> float:
    """Seconds since the epoch, in virtual time."""
    return EPOCH + asyncio.get_running_loop().time()


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Cluster:
    """Objects, and the actors that change them. `rng` decides what users and kube-scheduler do."""

    def __init__(self, rng: random.Random) -> None:
        self.store = Store()
        self.rng = rng
        self.violations: list[Violation] = []
        self.early: list[str] = []
        """Pods that were let go before all that they needed was allocated."""
        self.allocations = 0
        self.hidden_rule: set[tuple[str, str]] = set()
        """(pod, node) that kube-scheduler refuses for a reason that nobody else knows."""
        self.bind_delay_seconds = 0.2
        self._numbers = itertools.count()
        self.store.lease_holder = self._holder
        self.store.after_write.append(self._judge)

    # What is there.

    def add_node(self, name: str, *, gpus: int = 1, whole: int = 0, cpu: str = "16") -> None:
        """`gpus` that are cut, and some that are `whole`."""
        ready = [{"type": "Ready", "status": "True"}]
        allocatable = {"cpu": cpu, "memory": "64Gi", "pods": "110"}
        self.store.create(
            NODES,
            {
                "metadata": {"name": name},
                "spec": {},
                "status": {"allocatable": allocatable, "conditions": ready},
            },
        )
        boards = [f"gpu-{name}{at}" for at in range(gpus + whole)]
        for item in resource_slices(name, boards[:gpus], profiles=FOUR_PROFILES, whole=boards[gpus:]):
            self.store.create(RESOURCE_SLICES, item)

    def add_claim(self, name: str, profile: str, *, owner: Object | None = None) -> None:
        metadata: Object = {"name": name, "namespace": "default"}
        if owner is not None:
            metadata["ownerReferences"] = [
                {
                    "kind": "Pod",
                    "name": owner["metadata"]["name"],
                    "uid": owner["metadata"]["uid"],
                    "controller": True,
                }
            ]
        spec = {"devices": {"requests": [exactly(profile)]}}
        self.store.create(RESOURCE_CLAIMS, {"metadata": metadata, "spec": spec})

    def add_pod(
        self,
        name: str,
        profile: str | None = None,
        *,
        claim: str | None = None,
        cpu: str = "1",
        gang: tuple[str, int] | None = None,
        priority: int = 0,
        gated: bool = True,
        metadata: Object | None = None,
    ) -> None:
        """A pod with a claim from a template (`profile`), or with a named one."""
        annotations = (
            {names.GANG_ANNOTATION: gang[0], names.GANG_SIZE_ANNOTATION: str(gang[1])} if gang else {}
        )
        metadata = {
            "name": name, "namespace": "default", "annotations": annotations,
            "creationTimestamp": stamp(wall_clock()), **(metadata or {}),
        }  # fmt: skip
        source = {"resourceClaimName": claim} if claim else {"resourceClaimTemplateName": profile}
        spec = {
            "schedulingGates": [{"name": names.PLACEMENT_GATE}] if gated else [],
            "priority": priority,
            "resourceClaims": [{"name": "slice", **source}],
            "containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}],
        }
        self.store.create(PODS, {"metadata": metadata, "spec": spec, "status": {"phase": "Pending"}})

    def pods(self) -> dict[str, Object]:
        """By name. Copy before you change one."""
        return {pod["metadata"]["name"]: pod for pod in self.store.all(PODS)}

    def claims(self) -> dict[str, Object]:
        return {claim["metadata"]["name"]: claim for claim in self.store.all(RESOURCE_CLAIMS)}

    def claims_of(self, pod: Object) -> list[Object | None]:
        made = {s["name"]: s["resourceClaimName"] for s in pod["status"].get("resourceClaimStatuses") or ()}
        claims = self.claims()
        return [
            claims.get(entry.get("resourceClaimName") or made.get(entry["name"], ""))
            for entry in pod["spec"]["resourceClaims"]
        ]

    # Who acts.

    async def controller_manager(self) -> None:
        """Makes claims from templates, frees those that nobody uses any more, and collects garbage."""
        seen = -1
        while True:
            await asyncio.sleep(self.rng.uniform(0.02, 0.1))
            if seen == self.store.version:
                continue
            seen = self.store.version
            pods = self.pods()
            for pod in pods.values():
                self._make_claims(pod)
            alive = {
                p["metadata"]["uid"]
                for p in pods.values()
                if p["status"]["phase"] not in ("Succeeded", "Failed")
            }
            for claim in self.claims().values():
                self._free(claim, alive)

    def _make_claims(self, pod: Object) -> None:
        if "resourceClaimStatuses" in pod["status"]:
            return
        pod = copy.deepcopy(pod)
        name = pod["metadata"]["name"]
        for entry in pod["spec"]["resourceClaims"]:
            template = entry.get("resourceClaimTemplateName")
            if template and "resourceClaimStatuses" not in pod["status"]:
                claim = f"{name}-{next(self._numbers)}"
                self.add_claim(claim, template, owner=pod)
                pod["status"]["resourceClaimStatuses"] = [{"name": entry["name"], "resourceClaimName": claim}]
                self.store.update(PODS, pod)

    def _free(self, claim: Object, alive: set[str]) -> None:
        claim = copy.deepcopy(claim)
        status = claim.setdefault("status", {})
        reserved = status.get("reservedFor") or []
        kept = [consumer for consumer in reserved if consumer["uid"] in alive]
        finalizers = claim["metadata"].get("finalizers") or []
        if kept != reserved:
            status["reservedFor"] = kept
            if not kept and finalizers:
                status.pop("allocation", None)
            self.store.update(RESOURCE_CLAIMS, claim)
        elif "deletionTimestamp" in claim["metadata"] and status.get("allocation") and not reserved:
            status.pop("allocation")
            self.store.update(RESOURCE_CLAIMS, claim)
        elif (
            finalizers
            and not status.get("allocation")
            and (reserved or "deletionTimestamp" in claim["metadata"])
        ):
            claim["metadata"]["finalizers"] = []
            self.store.update(RESOURCE_CLAIMS, claim)
        owners = claim["metadata"].get("ownerReferences") or []
        if owners and owners[0]["uid"] not in alive and "deletionTimestamp" not in claim["metadata"]:
            self.store.delete(RESOURCE_CLAIMS, claim["metadata"]["name"], "default")

    async def kube_scheduler(self) -> None:
        """Binds ungated pods whose claims are allocated, by CPU and by a rule that only it knows."""
        seen = -1
        while True:
            await asyncio.sleep(self.rng.uniform(0.5, 1.5) * self.bind_delay_seconds)
            if seen == self.store.version:
                continue
            seen = self.store.version
            for pod in self.pods().values():
                if pod["spec"].get("schedulingGates") or pod["spec"].get("nodeName"):
                    continue
                if pod["status"]["phase"] == "Pending":
                    self._schedule(pod)

    def _schedule(self, pod: Object) -> None:
        pod = copy.deepcopy(pod)
        claims = [copy.deepcopy(claim) for claim in self.claims_of(pod)]
        nodes = {_node_of(claim) for claim in claims}
        if len(nodes) != 1 or "" in nodes:
            return self._refuse(pod)
        (node,) = nodes
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if (name, node) in self.hidden_rule or self._cpu_left(node) < int(_cpu(pod)):
            if self.rng.random() < 0.3:
                # Its PostFilter gives an allocation that only this pod has reserved another chance.
                self._clear(claims, uid)
            return self._refuse(pod)
        for claim in claims:
            assert claim is not None
            reserved = claim["status"].setdefault("reservedFor", [])
            if uid not in [consumer["uid"] for consumer in reserved]:
                reserved.append({"resource": "pods", "name": name, "uid": uid})
                self.store.update(RESOURCE_CLAIMS, claim)
        pod["spec"]["nodeName"] = node
        pod["status"] |= {"phase": "Running", "conditions": []}
        self.store.update(PODS, pod)
        return None

    def _clear(self, claims: list[Object | None], uid: str) -> None:
        for claim in claims:
            if claim is not None and [c["uid"] for c in claim["status"].get("reservedFor") or ()] == [uid]:
                claim["status"] = {}
                self.store.update(RESOURCE_CLAIMS, claim)

    def _refuse(self, pod: Object) -> None:
        conditions = pod["status"].get("conditions") or []
        if not conditions:
            pod["status"]["conditions"] = [
                {
                    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                    "lastTransitionTime": stamp(wall_clock()),
                }
            ]  # fmt: skip
            self.store.update(PODS, pod)

    def _cpu_left(self, node: str) -> int:
        allocatable = int(self.store.get(NODES, node)["status"]["allocatable"]["cpu"])
        on_node = [p for p in self.pods().values() if p["spec"].get("nodeName") == node]
        return allocatable - sum(int(_cpu(p)) for p in on_node if p["status"]["phase"] == "Running")

    def finish(self, name: str) -> None:
        """The pod's work is done."""
        pod = copy.deepcopy(self.pods()[name])
        pod["status"]["phase"] = "Succeeded"
        self.store.update(PODS, pod)

    def delete_pod(self, name: str) -> None:
        self.store.delete(PODS, name, "default")

    # What must hold.

    def _holder(self) -> str:
        lease = self.store.objects.get(("leases", names.SYSTEM_NAMESPACE, names.SCHEDULER_LEASE))
        return "" if lease is None else str(lease["spec"].get("holderIdentity") or "")

    def _judge(self, kind: str, new: Object, old: Object | None) -> None:
        if new["kind"] == RESOURCE_CLAIMS.kind:
            held = (new.get("status") or {}).get("allocation")
            if held and not ((old or {}).get("status") or {}).get("allocation"):
                self.allocations += 1
                self.violations += check(self.store.all(RESOURCE_CLAIMS), self.store.all(RESOURCE_SLICES), [])
        elif new["kind"] == PODS.kind and _is_let_go(old, new):
            self._judge_letting_go(new)

    def _judge_letting_go(self, pod: Object) -> None:
        """All claims of the pod are allocated, and those of a gang that starts with it."""
        annotations = pod["metadata"]["annotations"]
        gang = annotations.get(names.GANG_ANNOTATION)
        members = [
            p for p in self.pods().values() if p["metadata"]["annotations"].get(names.GANG_ANNOTATION) == gang
        ]
        together = members if gang else [pod]
        started = any(
            not p["spec"]["schedulingGates"]
            for p in together
            if p["metadata"]["uid"] != pod["metadata"]["uid"]
        )
        for member in [pod] if started else together:
            if any(_node_of(claim) == "" for claim in self.claims_of(member)):
                self.early.append(f"{pod['metadata']['name']} before {member['metadata']['name']}")


def _is_let_go(old: Object | None, new: Object) -> bool:
    return bool(old and old["spec"].get("schedulingGates") and not new["spec"].get("schedulingGates"))


def _cpu(pod: Object) -> str:
    return str(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"])


def _node_of(claim: Object | None) -> str:
    allocation = ((claim or {}).get("status") or {}).get("allocation")
    if not allocation:
        return ""
    return str(allocation["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0]["values"][0])
