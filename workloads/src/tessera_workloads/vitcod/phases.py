"""The phases: a dense model, its continuation as the baseline, then auto-encoder, pruning, random pruning.

The baseline trains on for exactly the steps and rates that auto-encoder and pruning take together, so that
the total loss is what ViTCoD costs, and not what longer training gains.
"""

from collections.abc import Callable

from tessera_workloads.protocol import LrSchedule, OptimizerSpec, Phase, Update
from tessera_workloads.schedules import cosine
from tessera_workloads.vitcod.model import CODED, CONTINUED, DENSE, RANDOM, SPARSE
from tessera_workloads.vitcod.parameters import VitcodParameters

_WARM_UP = 0.05


def phases(p: VitcodParameters) -> tuple[Phase, ...]:
    """All phases; each trains the arm of its own name."""
    coder = _rise_and_fall(p.fine_tuning_rate, p.coder_steps)
    sparse = _rise_and_fall(p.fine_tuning_rate, p.sparse_steps)

    def both(step: int) -> float:
        return coder(step) if step < p.coder_steps else sparse(step - p.coder_steps)

    plan: tuple[tuple[str, int, Callable[[int], float]], ...] = (
        (DENSE, p.dense_steps, _rise_and_fall(p.learning_rate, p.dense_steps)),
        (CONTINUED, p.coder_steps + p.sparse_steps, both),
        (CODED, p.coder_steps, coder),
        (SPARSE, p.sparse_steps, sparse),
        (RANDOM, p.sparse_steps, sparse),
    )
    return tuple(
        Phase(
            name=arm,
            steps=steps,
            batch=p.batch,
            updates=(Update(optimizer=_OPTIMIZER, trains=(f"{arm}.*",)),),
            lr_at=lr_at,
            precision=p.precision,
        )
        for arm, steps, lr_at in plan
    )


def _rise_and_fall(highest: float, steps: int) -> LrSchedule:
    """A line up during the first twentieth of the steps, then half a cosine down to nothing."""
    return cosine(highest, steps, warm_up=max(1, round(_WARM_UP * steps)))


_OPTIMIZER = OptimizerSpec(kind="adamw", weight_decay=0.05, clip_norm=1.0)
