"""A static partition, its nodes and their agents, played by the operator's own pure functions.

What the operator sees is a copy that may be old, of each kind by itself, as with informers; what it reads and
writes is the object. An agent does what its GPUNode asks when it is told to, unless it is to fail.
"""

from __future__ import annotations

import copy
from datetime import datetime, timedelta
from typing import Any

from nodes_in_change import is_in_change
from tessera.controllers import gpu_node, partition
from tessera.controllers.partition import ClusterView
from tessera.controllers.plan import Plan
from unit.controllers.partition_objects import (
    Object,
    claim_on,
    cluster,
    device_name,
    gpu_node_object,
    gpu_report,
    node,
    partition_object,
    static_partition,
    uuid_of,
)
from unit.controllers.plan_words import NOW


class World:
    """So many nodes with so many H100 each, and one partition that asks `layout` of all."""

    def __init__(self, nodes: int, *layout: Object, gpus: int = 1, **spec: Any) -> None:
        self.names = [f"n{number}" for number in range(nodes)]
        self.partition = static_partition(*layout, **spec)
        self.gpu_nodes = {
            name: gpu_node_object(name, *(gpu_report(name, index) for index in range(gpus)))
            for name in self.names
        }
        self.claims: list[Object] = []
        self.failing: set[str] = set()
        self.refused: dict[str, str] = {}
        """Why GPUNodes may not be written."""
        self.now: datetime = NOW
        self._seen: dict[str, Any] = {}
        self._view: ClusterView | None = None
        for kind in ("partition", "gpu_nodes", "claims"):
            self.see(kind)

    # What happens outside.

    def ask(self, *layout: Object, **spec: Any) -> None:
        """The user applies another spec."""
        self.partition["spec"] = static_partition(*layout, **spec)["spec"]
        self.partition["metadata"]["generation"] += 1

    def ask_for_mig_off(self, **spec: Any) -> None:
        """The user wants MIG mode off."""
        self.partition["spec"] = partition_object(migMode="Disabled", mode="dynamic", **spec)["spec"]
        self.partition["metadata"]["generation"] += 1

    def hold(self, name: str, profile: str, start: int, *, index: int = 0) -> None:
        """A pod runs on a slice."""
        device = device_name(name, index, profile, start)
        instance = {"device": device, "profile": profile, "start": start, "state": "InUse"}
        self._gpu(name, index)["instances"].append(instance)
        claim = claim_on(name, device)
        claim["metadata"] = {"namespace": "team", "name": f"claim-{name}-{index}-{start}"}
        pod = {"resource": "pods", "name": f"pod-{name}-{start}", "uid": f"uid-{name}-{index}-{start}"}
        claim["status"]["reservedFor"] = [pod]
        self.claims.append(claim)

    def holdable(self, name: str) -> bool:
        """Whether a pod may come to a slice of the first GPU that is in no layout."""
        free = not any(self._pool(claim) == name for claim in self.claims)
        return free and self.layout(name) is None and not self._gpu(name, 0)["instances"]

    def end(self, name: str) -> None:
        """All pods of the node end; their slices stay warm."""
        self.claims = [c for c in self.claims if self._pool(c) != name]
        for gpu in self.gpu_nodes[name]["status"]["gpus"]:
            for instance in gpu["instances"]:
                instance["state"] = "Warm"

    def agent(self, name: str) -> None:
        """The agent looks at its spec."""
        obj = self.gpu_nodes[name]
        obj["status"]["observedGeneration"] = obj["metadata"]["generation"]
        asked = {gpu["uuid"]: gpu for gpu in obj.get("spec", {}).get("gpus", [])}
        for gpu in obj["status"]["gpus"]:
            demand = asked.get(gpu["uuid"], {})
            off = demand.get("migMode") == "Disabled"
            layout = [] if off else demand.get("layout")
            if layout is None:
                gpu.pop("layout", None)
                continue
            wanted = {(place["profile"], place["start"]) for place in layout}
            in_use = [i for i in gpu["instances"] if i["state"] == "InUse"]
            if any((i["profile"], i["start"]) not in wanted for i in in_use):
                gpu["layout"] = {"state": "Blocked"}
            elif name in self.failing:
                gpu["layout"] = {"state": "Failed", "message": "NVML says no; reset the GPU"}
            else:
                held = {(i["profile"], i["start"]) for i in in_use}
                made = [
                    {"device": device_name(name, gpu["index"], p, s), "profile": p, "start": s}
                    for p, s in sorted(wanted - held)
                ]
                gpu["instances"] = in_use + [{**instance, "state": "Warm"} for instance in made]
                gpu["layout"] = {"state": "Applied"}
                gpu["migMode"] = "Disabled" if off else "Enabled"
            gpu["layout"]["generation"] = demand["layoutGeneration"]

    # The operator.

    def see(self, kind: str) -> None:
        """The informer of one kind catches up."""
        self._seen[kind] = copy.deepcopy(getattr(self, kind))
        self._view = None

    def reconcile_partition(self) -> Plan:
        plan = partition.reconcile(self.partition, self.view(), refused=self.refused, now=self.now)
        assert plan.status is not None
        self.partition["status"] = copy.deepcopy(dict(plan.status))
        return plan

    def reconcile_node(self, name: str) -> None:
        view = self.view()
        obj = self.gpu_nodes[name]
        if name in self.refused:
            return
        for child in gpu_node.reconcile(
            obj, gpus=view.gpus_by_node.get(name, ()), owners=view.owners
        ).children:
            obj["spec"] = copy.deepcopy(child.body["spec"])
            obj["metadata"]["generation"] += 1

    def turn(self, *, agents: bool = True) -> Plan:
        """All see all, and everybody acts once."""
        for kind in self._seen:
            self.see(kind)
        plan = self.reconcile_partition()
        self.see("partition")
        for name in self.names:
            self.reconcile_node(name)
            if agents:
                self.agent(name)
        self.now += timedelta(seconds=1)
        return plan

    def settle(self, *, turns: int = 40) -> Plan:
        """Turns until nothing is in change."""
        for _ in range(turns):
            plan = self.turn()
            told = (plan.status or {})["layout"]
            if not self.in_change() and not told["changing"] and not told["failed"]:
                return plan
        raise AssertionError(f"still in change: {self.in_change()}")

    # What there is.

    def in_change(self) -> set[str]:
        """Nodes in change."""
        return {name for name, obj in self.gpu_nodes.items() if is_in_change(obj)}

    def layout(self, name: str, index: int = 0) -> list[str] | None:
        """The layout in the spec of a GPU."""
        for gpu in self.gpu_nodes[name].get("spec", {}).get("gpus", []):
            if gpu["uuid"] == uuid_of(name, index) and "layout" in gpu:
                return [f"{place['profile']}@{place['start']}" for place in gpu["layout"]]
        return None

    def _gpu(self, name: str, index: int) -> Any:
        return self.gpu_nodes[name]["status"]["gpus"][index]

    def _pool(self, claim: Object) -> str:
        (result,) = claim["status"]["allocation"]["devices"]["results"]
        return str(result["pool"])

    def view(self) -> ClusterView:
        """What the operator sees."""
        if self._view is None:
            self._view = cluster(
                [self._seen["partition"]],
                nodes=[node(name) for name in self.names],
                gpu_nodes=list(self._seen["gpu_nodes"].values()),
                claims=self._seen["claims"],
            )
        return self._view
