"""The arms that are compared: who allocates, and how the cluster is set up for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.scheduler_at_scale.cluster import ALLOCATOR_POD
from tessera.api import names


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way to get pods onto slices.

    Attributes:
        allocator: None: kube-scheduler allocates by itself, on devices without a taint.
        device_class: the DeviceClass object exists, so kube-scheduler searches for what is not allocated.
        gated: pods are created with the scheduling gate.
        moves: a MIGPartition over all GPUs allows movable pods to be moved.
        default_limits: kube-scheduler has its default client limits, 50 requests a second, bursts of 100.
        native: the burst is cut early, and there is no churn run.
    """

    name: str
    story: str
    allocator: Literal["trivial", "tessera"] | None
    device_class: bool
    gated: bool
    moves: bool = False
    default_limits: bool = False

    @property
    def native(self) -> bool:
        """Whether kube-scheduler allocates."""
        return self.allocator is None

    def command(self, profile: Path | None = None) -> list[str]:
        """What `python -P` is called with to run the allocator; port and kubeconfig are added. It writes
        into the folder `profile` what it spends its time on.
        """
        module, arguments = "bench.scheduler_at_scale.trivial_allocator", []
        if self.allocator == "tessera":
            module = "tessera.cli.main"
            lease = [f"--lease-namespace={names.SYSTEM_NAMESPACE}", f"--identity={ALLOCATOR_POD}"]
            arguments = ["scheduler", *lease]
        if profile is not None:
            file = str(profile / f"{self.name}.txt")
            return ["-m", "bench.scheduler_at_scale.sampling", file, f"{module}:main", *arguments]
        return ["-c", f"from {module} import main; main()", *arguments]


ARMS = (
    Arm(
        name="native",
        story="kube-scheduler's own allocation, same devices without the taint",
        allocator=None,
        device_class=True,
        gated=False,
    ),
    Arm(
        name="trivial",
        story="first fit in about 170 lines, gated, no DeviceClass",
        allocator="trivial",
        device_class=False,
        gated=True,
    ),
    Arm(
        name="ours-ungated",
        story="ours, no DeviceClass, not gated",
        allocator="tessera",
        device_class=False,
        gated=False,
    ),
    Arm(
        name="ours-gated",
        story="ours, no DeviceClass, gated",
        allocator="tessera",
        device_class=False,
        gated=True,
    ),
    Arm(
        name="ours-class",
        story="ours, DeviceClass exists, gated",
        allocator="tessera",
        device_class=True,
        gated=True,
    ),
    Arm(
        name="ours-limits",
        story="as ours-gated, kube-scheduler with its default client limits",
        allocator="tessera",
        device_class=False,
        gated=True,
        default_limits=True,
    ),
    Arm(
        name="moves-ungated",
        story="as ours-ungated, and a MIGPartition allows moves",
        allocator="tessera",
        device_class=False,
        gated=False,
        moves=True,
    ),
    Arm(
        name="moves-gated",
        story="as ours-gated, and a MIGPartition allows moves",
        allocator="tessera",
        device_class=False,
        gated=True,
        moves=True,
    ),
    Arm(
        name="moves-class",
        story="as ours-class, and a MIGPartition allows moves",
        allocator="tessera",
        device_class=True,
        gated=True,
        moves=True,
    ),
)
