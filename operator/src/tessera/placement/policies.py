"""Placement policies: how a place for a slice is ranked. The lowest rank wins, over all GPUs of the
cluster.

A policy ranks (geometry, layout of the GPU, placement), never a particular GPU or node, so that a rank is
computed once for all GPUs with the same layout. Ties go to the GPU with the lowest number, then to the
placement that the policy's `preference` names, then to the lowest start. Only two policies choose the GPU
otherwise: `random` by chance, and `round_robin` in turn.

Two kinds. *Fit* policies (`policies_fit`) look at the GPU as it is: fullest first, emptiest first, first.
*Value* policies (`policies_value`) put a number on every layout, what it costs the future, and take the
placement that raises it least. The same number says whether a move or a reservation pays.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

from tessera.placement.default_policy import LearnedByMix
from tessera.placement.geometry import Geometry
from tessera.placement.policies_fit import (
    BestFit,
    BestFitHami,
    BestFitHamiMaster,
    BestFitMfi,
    FirstFit,
    RandomFit,
    Rank,
    RoundRobin,
    WorstFit,
)
from tessera.placement.policies_value import (
    FragmentationGradient,
    FragmentationTenancy,
    MaximumCapability,
    MinimumFragmentationIncrease,
    ValuePolicy,
)

__all__ = [
    "DEFAULT_POLICY",
    "POLICIES",
    "BestFit",
    "BestFitHami",
    "BestFitHamiMaster",
    "BestFitMfi",
    "FirstFit",
    "FragmentationGradient",
    "FragmentationTenancy",
    "LearnedByMix",
    "MaximumCapability",
    "MinimumFragmentationIncrease",
    "Policy",
    "RandomFit",
    "Rank",
    "RoundRobin",
    "UnknownPolicy",
    "ValuePolicy",
    "WorstFit",
    "make_policy",
]


@runtime_checkable
class Policy(Protocol):
    """What the engine asks of a policy."""

    name: str

    @property
    def version(self) -> int:
        """Ranks hold as long as this number does not change."""

    @property
    def chance(self) -> random.Random | None:
        """Breaks ties between GPUs by chance when it is set."""

    @property
    def turn(self) -> int | None:
        """When it is set, ties go to the first GPU from this number on, cyclically."""

    def rank(self, geometry: Geometry, layout: int, index: int) -> Rank:
        """The rank of taking placement `index` on a GPU with this layout; lowest wins."""

    def preference(self, geometry: Geometry, layout: int, index: int) -> Rank:
        """Orders placements of equal rank on the same GPU, before their starts do; lowest wins."""

    def record(self, profile: str) -> None:
        """Learn that a slice of this profile was asked for."""

    def chosen(self, number: int) -> None:
        """Learn which GPU the engine has chosen."""


class UnknownPolicy(LookupError):
    """No policy has this name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
        super().__init__(f"placement policy {name!r} does not exist; nearest: {', '.join(nearest)}")


DEFAULT_POLICY = "table"


class _Registry(dict[str, Callable[[], Policy]]):
    """Policies by name. Hyphens and underscores are the same, and "default" is the default policy; iteration
    gives each policy once, under its own name.
    """

    def _own_name(self, name: object) -> str:
        if name == "default":
            return DEFAULT_POLICY
        plain = str(name).replace("-", "_")
        return next((known for known in self if known.replace("-", "_") == plain), str(name))

    def __missing__(self, name: str) -> Callable[[], Policy]:
        own = self._own_name(name)
        if not dict.__contains__(self, own):
            raise UnknownPolicy(name, self)
        return dict.__getitem__(self, own)

    def __contains__(self, name: object) -> bool:
        return dict.__contains__(self, self._own_name(name))


POLICIES = _Registry(
    {
        "fgd": FragmentationGradient,
        "fgd-h": FragmentationTenancy,
        "table": LearnedByMix,
        "mfi": MinimumFragmentationIncrease,
        "mcc": MaximumCapability,
        "best_fit": BestFit,
        "best_fit_hami": BestFitHami,
        "best_fit_hami_master": BestFitHamiMaster,
        "best_fit_mfi": BestFitMfi,
        "first_fit": FirstFit,
        "worst_fit": WorstFit,
        "round_robin": RoundRobin,
        "random": RandomFit,
    }
)


def make_policy(name: str, *, seed: int = 0) -> Policy:
    """A new policy by name ("default" is the default one). `seed` is for those that use chance.

    Raises UnknownPolicy with the nearest names.
    """
    factory = POLICIES[name]
    return factory(seed) if factory is RandomFit else factory()
