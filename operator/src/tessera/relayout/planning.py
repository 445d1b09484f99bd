"""From rules and what the driver says to one plan per GPU. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.relayout.errors import BadLayout
from tessera.relayout.plan import plan_change
from tessera.relayout.reading import Machine, ReadGPU
from tessera.relayout.transaction import GPUPlan
from tessera.relayout.wanted import Named, Rule, rules_by_gpu


def plan_machine(machine: Machine, rules: Sequence[Rule]) -> tuple[GPUPlan, ...]:
    """The plans of the GPUs that the rules name, by index; other GPUs have none and are not touched.

    Raises `BadLayout` and `ImpossibleLayout`.
    """
    named = [Named(read.gpu.index, read.gpu.uuid, read.model_name) for read in machine.gpus]
    chosen = rules_by_gpu(rules, named)
    by_index = {read.gpu.index: read for read in machine.gpus}
    return tuple(_plan(by_index[index], rule) for index, rule in sorted(chosen.items()))


def _plan(read: ReadGPU, rule: Rule) -> GPUPlan:
    gpu, geometry = read.gpu, read.geometry
    if gpu.fault:
        raise BadLayout(f"GPU {gpu.index} ({gpu.uuid}) cannot get a layout", gpu.fault)
    if gpu.model is None or geometry is None:
        raise BadLayout(
            f"GPU {gpu.index} ({gpu.product}) cannot get a layout",
            "the driver offers no MIG profile for it",
            "Name other GPUs with --gpu",
        )
    return GPUPlan(
        index=gpu.index,
        uuid=gpu.uuid,
        model=gpu.model,
        mig_now=gpu.mig_current,
        mig_then=rule.mig_then(now=gpu.mig_current),
        change=plan_change(geometry, read.standing, rule.wishes),
        pids=read.pids,
        mode_pending=gpu.mig_current != gpu.mig_pending,
    )
