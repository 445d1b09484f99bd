"""The cluster of the queueing experiment: the engine's state, plus what the measures need of each GPU.

The engine's state also holds the placeholders of reservations, which close room for others. They are no
work, so used compute, used memory and fragmentation are counted from the running jobs alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from tessera.placement.engine import Engine
from tessera.placement.geometry import Geometry
from tessera.placement.policies import Policy
from tessera.placement.request import Placement, Request, request_for_profile
from tessera.placement.state import ClusterState
from tessera.simulate.queueing.geometry import fragmentation_of
from tessera.simulate.queueing.workload import Mix, Shape


@dataclass(slots=True)
class _Load:
    """What the running jobs take of one GPU."""

    key: int = 0
    compute: int = 0


class QueueCluster:
    """Equal GPUs on equal nodes. `memory_slices` are those of one GPU of the model, in every geometry."""

    def __init__(
        self,
        *,
        geometry: Geometry,
        mix: Mix,
        policy: Policy,
        nodes: int,
        gpus_per_node: int,
        memory_slices: int,
    ) -> None:
        self.state = ClusterState()
        self.geometry = geometry
        self.policy = policy
        self._engine = Engine(policy)
        self._loads: dict[str, _Load] = {}
        for node in range(nodes):
            for gpu in range(gpus_per_node):
                name = f"node-{node}/gpu-{gpu}"
                self.state.add_gpu(name, node=f"node-{node}", geometry=geometry)
                self._loads[name] = _Load()
        self.requests: dict[str, Request] = {
            shape.profile: request_for_profile(self.state, shape.profile, name=shape.profile)
            for shape in mix.shapes
        }
        self._fragmentation = fragmentation_of(geometry)
        self._shapes: dict[int, Shape] = {}
        self._full: set[str] = set()
        self.compute_total = len(self._loads) * geometry.compute_slices
        self.memory_total = len(self._loads) * memory_slices
        self.free_compute = self.compute_total
        self.free_memory = self.memory_total

    def fits(self, profile: str) -> bool:
        """Whether some GPU has room for it, placeholders counted as taken."""
        if profile in self._full:
            return False
        occupancy = self.geometry.occupancy
        found = any(profile in occupancy(gpu.key).profiles for gpu in self.state.gpus)
        if not found:
            self._full.add(profile)
        return found

    def room_was_opened(self) -> None:
        """Something was given back: what did not fit before may fit now."""
        self._full.clear()

    def enough_in_sum(self, shape: Shape) -> bool:
        """Whether its compute and its memory are free, wherever they are."""
        return self.free_compute >= shape.compute_slices and self.free_memory >= shape.memory_slices

    def start(self, number: int, shape: Shape) -> Placement | None:
        """Place a job by the policy; None when there is no room."""
        if not self.fits(shape.profile):
            return None
        found = self._engine.place(self.state, (self.requests[shape.profile],))
        if not isinstance(found, tuple):
            return None
        self.occupy(number, shape, found[0].gpu, found[0].index)
        return found[0]

    def occupy(self, number: int, shape: Shape, gpu: str, index: int) -> None:
        """Take a place for a job."""
        self.state.occupy(gpu, index, owner=number)
        load = self._loads[gpu]
        load.key = self.geometry.with_placed(load.key, index)
        load.compute += shape.compute_slices
        self._shapes[number] = shape
        self.free_compute -= shape.compute_slices
        self.free_memory -= shape.memory_slices

    def end(self, number: int) -> str:
        """Give back what a job holds; returns the GPU."""
        held = self.state.holds(number)
        assert held is not None, f"job {number} holds nothing"
        gpu, index = held
        self.state.release(number)
        shape = self._shapes.pop(number)
        load = self._loads[gpu.name]
        load.key = self.geometry.with_released(load.key, index)
        load.compute -= shape.compute_slices
        self.free_compute += shape.compute_slices
        self.free_memory += shape.memory_slices
        self.room_was_opened()
        return gpu.name

    def shares(self) -> dict[str, float]:
        """Used compute and memory, and mean fragmentation over the GPUs, each 0 to 1."""
        physical = stranded = 0.0
        whole = self.geometry.compute_slices
        for load in self._loads.values():
            physical += self._fragmentation.physical(load.key)
            stranded += self._fragmentation.stranded(load.key, whole - load.compute)
        return {
            "compute": 1 - self.free_compute / self.compute_total,
            "memory": 1 - self.free_memory / self.memory_total,
            "physical": physical / len(self._loads),
            "stranded": stranded / len(self._loads),
        }
