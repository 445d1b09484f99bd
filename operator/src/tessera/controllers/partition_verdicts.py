"""The conditions of a partition, from the facts about it.

``NoConflict`` (nobody else has its GPUs), ``ProfilesValid`` (what it names exists on its GPUs),
``ReservesMet`` (the reserved room is free), in mode static and with MIG mode off ``LayoutApplied``
(`rollout_report`), and first ``Ready``: the first thing that keeps the partition from working, or that all is
well.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tessera.api.mig_partition import MIGPartitionSpec
from tessera.api.reasons import Reason
from tessera.controllers.conditions import Verdict
from tessera.controllers.gpu_layout import why_impossible, wishes_of
from tessera.controllers.gpu_view import GPU
from tessera.controllers.node_trouble import node_trouble
from tessera.controllers.plan import Object

NAMED = 5
"""How many nodes or GPUs a message names."""


@dataclass(frozen=True, kw_only=True)
class PartitionFacts:
    """What is known about one partition."""

    spec: MIGPartitionSpec
    nodes: tuple[str, ...]
    """Nodes that the selector matches."""
    gpu_nodes: Mapping[str, Object]
    """Those of them for which an agent reports, by name."""
    refused: Mapping[str, str]
    """Why the GPUNodes among them that the API server does not let us write cannot be written, by name."""
    selected: tuple[GPU, ...]
    owned: tuple[GPU, ...]
    conflicts: tuple[str, ...]
    every_gpu: tuple[GPU, ...]
    """All GPUs of the cluster, to tell an unknown profile from one of another model."""

    @property
    def counted(self) -> tuple[GPU, ...]:
        """The GPUs that the status is about: what a dry run would have, else what there is."""
        return self.selected if self.spec.dry_run else self.owned

    @property
    def offered_modes(self) -> frozenset[str]:
        """The MIG modes in which its GPUs are offered: to be cut, as a whole, or both."""
        if self.spec.mig_mode == "Unmanaged" and self.spec.static is None:
            return frozenset({"Enabled", "Disabled"})
        return frozenset({"Disabled" if self.spec.mig_mode == "Disabled" else "Enabled"})


def verdicts_of(facts: PartitionFacts, *, valid: Verdict, layout: Verdict | None) -> tuple[Verdict, ...]:
    """All conditions, Ready first. `valid` is what `profiles_valid` says, `layout` is LayoutApplied."""
    conflict = _no_conflict(facts)
    reserves = _reserves_met(facts, valid)
    ready = _ready(facts, conflict, valid, layout)
    return (ready, conflict, valid, reserves, *([] if layout is None else [layout]))


def _ready(facts: PartitionFacts, conflict: Verdict, valid: Verdict, layout: Verdict | None) -> Verdict:
    trouble = _nothing_selected(facts)
    if trouble is not None:
        return Verdict("Ready", "False", *trouble)
    if conflict.status == "False":
        return Verdict("Ready", "False", conflict.reason, conflict.message)
    if valid.status == "False":
        return Verdict("Ready", "False", valid.reason, valid.message)
    if facts.spec.dry_run:
        return Verdict(
            "Ready",
            "True",
            Reason.DRY_RUN,
            f"dry run: {len(facts.selected)} GPU(s) on {len(facts.gpu_nodes)} node(s) would be taken; set "
            "spec.dryRun "
            "to false to take them",
        )
    if facts.refused:
        (name, why), *others = facts.refused.items()
        more = f" (and {len(others)} more node(s))" if others else ""
        return Verdict("Ready", "False", Reason.RECONCILE_ERROR, f"node {name}: {why}{more}")
    not_off = [gpu for gpu in facts.owned if gpu.mig_mode != "Disabled"]
    if facts.spec.mig_mode == "Disabled" and not_off:
        return _still_on(not_off, layout)
    trouble = node_trouble(facts.gpu_nodes) or gpus_in_trouble(facts.owned, facts.offered_modes)
    if trouble is not None:
        return Verdict("Ready", "False", *trouble)
    if layout is not None and layout.status != "True":
        return Verdict("Ready", "False", layout.reason, layout.message)
    how = "are cut on demand" if layout is None else "have their fixed layout"
    if not not_off:
        how = "are offered as a whole, because MIG mode is off"
    elif whole := len(facts.owned) - len(not_off):
        how += f", but for {whole} whose MIG mode is off: offered as a whole"
    return Verdict(
        "Ready",
        "True",
        Reason.PARTITIONED,
        f"{len(facts.owned)} GPU(s) on {len(facts.gpu_nodes)} node(s) {how}",
    )


def _still_on(gpus: list[GPU], layout: Verdict | None) -> Verdict:
    if layout is not None and layout.status == "False":
        return Verdict("Ready", "False", layout.reason, layout.message)
    return Verdict(
        "Ready",
        "False",
        Reason.RECONCILING,
        f"{_gpu_list(gpus)}: MIG mode is {gpus[0].mig_mode} and is to be switched off; "
        f"`kubectl describe gn {gpus[0].node}` says what is in the way",
    )


def _nothing_selected(facts: PartitionFacts) -> tuple[Reason, str] | None:
    spec = facts.spec
    if not facts.nodes:
        return (
            Reason.NO_NODES_SELECTED,
            "spec.nodeSelector matches no node; compare it with `kubectl get nodes --show-labels`",
        )
    if not facts.gpu_nodes:
        return (
            Reason.GPU_NODE_MISSING,
            f"no agent has reported for {_list(facts.nodes)}; look at the pods of DaemonSet tessera-agent "
            "there "
            "(kubectl get pods -n tessera-system -o wide)",
        )
    if facts.selected:
        return None
    broken = node_trouble(facts.gpu_nodes)
    if broken is not None:
        return broken
    if spec.gpus is None:
        return Reason.NO_GPUS_SELECTED, f"{_list(tuple(facts.gpu_nodes))} report no GPU; see `kubectl get gn`"
    there = sorted(
        {f"{gpu.model} (index {gpu.index})" for gpu in facts.every_gpu if gpu.node in facts.gpu_nodes}
    )
    return (
        Reason.NO_GPUS_SELECTED,
        "spec.gpus matches none of the GPUs of the selected nodes; they have: "
        f"{', '.join(there[:NAMED]) or 'none'}",
    )


def gpus_in_trouble(gpus: Sequence[GPU], modes: Collection[str]) -> tuple[Reason, str] | None:
    """Which of these GPUs are unhealthy, or in none of these MIG modes, and the remedy; None when none is."""
    sick = [gpu for gpu in gpus if not gpu.healthy]
    if sick:
        return Reason.GPU_UNHEALTHY, f"{_gpu_list(sick)}: unhealthy; see `kubectl describe gn {sick[0].node}`"
    off = [gpu for gpu in gpus if gpu.mig_mode not in modes]
    if off:
        return (
            Reason.MIG_DISABLED,
            f"{_gpu_list(off)}: MIG mode is {off[0].mig_mode}; "
            f"`kubectl describe gn {off[0].node}` says what is in the way",
        )
    return None


def _no_conflict(facts: PartitionFacts) -> Verdict:
    if not facts.conflicts:
        return Verdict(
            "NoConflict", "True", Reason.NO_CONFLICT, "no other partition has a GPU that this one selects"
        )
    more = len(facts.conflicts) - NAMED
    tail = f" and {more} more" if more > 0 else ""
    return Verdict(
        "NoConflict",
        "False",
        Reason.CONFLICT,
        f"{'; '.join(facts.conflicts[:NAMED])}{tail}: the older partition keeps them; "
        "narrow spec.nodeSelector or spec.gpus of one of the two, or delete one",
    )


def profiles_valid(facts: PartitionFacts) -> Verdict:
    """Whether the GPUs can have what the spec names."""
    known = [gpu for gpu in facts.selected if gpu.profiles()]
    named = _named_profiles(facts.spec)
    if not named:
        return Verdict("ProfilesValid", "True", Reason.PROFILES_VALID, "the spec names no profile")
    if not known:
        return Verdict(
            "ProfilesValid", "Unknown", Reason.RECONCILING, "no agent has published the selected GPUs yet"
        )
    everywhere = frozenset(profile for gpu in facts.every_gpu for profile in gpu.profiles())
    # A reserve needs one GPU that has the profile; a static layout needs every GPU to have it.
    of_all = facts.spec.mode == "static"
    for profile, start in named:
        lacking = [gpu for gpu in known if profile not in gpu.profiles()]
        if lacking and (of_all or len(lacking) == len(known)):
            return _no_such_profile(profile, lacking[0], everywhere)
        wrong = [gpu for gpu in known if start is not None and start not in gpu.starts(profile)]
        if wrong:
            starts = ", ".join(str(place) for place in wrong[0].starts(profile))
            return Verdict(
                "ProfilesValid",
                "False",
                Reason.ILLEGAL_START,
                f"{profile} cannot begin at memory slice {start} of {wrong[0].model}; it can at {starts}",
            )
    if of_all:
        wishes = wishes_of(facts.spec) or ()
        for gpu in {gpu.geometry: gpu for gpu in reversed(known)}.values():
            why = why_impossible(gpu.geometry, wishes) if gpu.geometry is not None else ""
            if why:
                where = f"GPU {gpu.index} of node {gpu.node}"
                return Verdict("ProfilesValid", "False", Reason.IMPOSSIBLE_LAYOUT, f"{where}: {why}")
    return Verdict(
        "ProfilesValid", "True", Reason.PROFILES_VALID, "every profile exists on the selected GPUs"
    )


def _named_profiles(spec: MIGPartitionSpec) -> list[tuple[str, int | None]]:
    reserves = spec.dynamic.reserves if spec.dynamic is not None else []
    layout = spec.static.layout if spec.static is not None else []
    return [(reserve.profile, None) for reserve in reserves] + [(item.profile, item.start) for item in layout]


def _no_such_profile(profile: str, gpu: GPU, everywhere: frozenset[str]) -> Verdict:
    legal = ", ".join(sorted(gpu.profiles()))
    if profile in everywhere:
        return Verdict(
            "ProfilesValid",
            "False",
            Reason.ILLEGAL_PROFILE,
            f"{gpu.model} (GPU {gpu.index} of node {gpu.node}) has no profile {profile}; it has {legal}",
        )
    near = difflib.get_close_matches(profile, sorted(everywhere), n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return Verdict(
        "ProfilesValid",
        "False",
        Reason.UNKNOWN_PROFILE,
        f"no GPU of this cluster has a profile {profile}{hint}; {gpu.model} has {legal}",
    )


def _reserves_met(facts: PartitionFacts, valid: Verdict) -> Verdict:
    reserves = facts.spec.dynamic.reserves if facts.spec.dynamic is not None else []
    if not reserves:
        return Verdict("ReservesMet", "True", Reason.RESERVES_MET, "the spec reserves nothing")
    if valid.status != "True":
        return Verdict(
            "ReservesMet", "Unknown", valid.reason, "not counted while ProfilesValid does not hold"
        )
    short = []
    for reserve in reserves:
        room = sum(gpu.placeable(reserve.profile, limit=reserve.count) for gpu in facts.owned)
        if room < reserve.count:
            short.append(f"{reserve.count} x {reserve.profile} reserved, room for {room}")
    if short:
        return Verdict(
            "ReservesMet",
            "False",
            Reason.RESERVES_NOT_MET,
            f"{'; '.join(short)}; wait for jobs to end, add GPUs, or reserve less",
        )
    return Verdict("ReservesMet", "True", Reason.RESERVES_MET, "there is room for each of the reserves")


def _list(items: tuple[str, ...]) -> str:
    shown = ", ".join(items[:NAMED])
    more = len(items) - NAMED
    noun = "node" if len(items) == 1 else "nodes"
    return f"{noun} {shown}" + (f" and {more} more" if more > 0 else "")


def _gpu_list(gpus: list[GPU]) -> str:
    shown = ", ".join(f"GPU {gpu.index} of node {gpu.node}" for gpu in gpus[:NAMED])
    more = len(gpus) - NAMED
    return shown + (f" and {more} more" if more > 0 else "")
