"""The placement policies of the queueing experiment: all of the engine's, and the two that MIGBench models.

MIGBench's simulator has two models of shipping systems. HAMi is "most compute slots in use first" and
NVIDIA's DRA driver "fewest in use first"; both then take the first node, GPU and start. They are simpler
than the systems: HAMi's start order and the DRA driver's first fit over devices are `best_fit_hami` and
`first_fit` of the engine.
"""

from __future__ import annotations

from collections.abc import Callable

from tessera.placement.policies import POLICIES, BestFit, Policy, WorstFit, make_policy


class MigbenchHami(BestFit):
    """MIGBench's model of HAMi: the fewest free slices, then the lowest GPU and start."""

    name = "migbench-hami"


class MigbenchDra(WorstFit):
    """MIGBench's model of the DRA driver: the most free slices, then the lowest GPU and start."""

    name = "migbench-dra"


MODELS: dict[str, Callable[[], Policy]] = {policy.name: policy for policy in (MigbenchHami, MigbenchDra)}


def policy_names() -> list[str]:
    """Every policy that the experiment knows."""
    return [*POLICIES, *MODELS]


def queue_policy(name: str, *, seed: int) -> Policy:
    """A fresh policy. `seed` decides the chances of a policy that has any.

    Raises `tessera.placement.policies.UnknownPolicy` for a name that nobody knows.
    """
    return MODELS[name]() if name in MODELS else make_policy(name, seed=seed)
