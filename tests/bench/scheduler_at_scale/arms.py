"""The arms that are compared: who allocates, and how the cluster is set up for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
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


def _with_moves(arm: Arm) -> Arm:
    return replace(
        arm,
        name=arm.name.replace("ours", "moves"),
        story=f"as {arm.name}, and a MIGPartition allows moves",
        moves=True,
    )


_UNGATED = Arm(
    name="ours-ungated",
    story="ours, no DeviceClass, not gated",
    allocator="tessera",
    device_class=False,
    gated=False,
)
_GATED = replace(_UNGATED, name="ours-gated", story="ours, no DeviceClass, gated", gated=True)
_CLASS = replace(_GATED, name="ours-class", story="ours, DeviceClass exists, gated", device_class=True)

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
        story="first fit in about 200 lines, gated, no DeviceClass",
        allocator="trivial",
        device_class=False,
        gated=True,
    ),
    _UNGATED,
    _GATED,
    _CLASS,
    replace(
        _GATED,
        name="ours-limits",
        story="as ours-gated, kube-scheduler with its default client limits",
        default_limits=True,
    ),
    *(_with_moves(arm) for arm in (_UNGATED, _GATED, _CLASS)),
)
