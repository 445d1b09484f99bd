"""What the exact plan saves: the same requests through packers that decide one by one.

Only for a single GPU model: with several models the packers would need a rule for choosing the model, and the
comparison would measure that rule. A limit on GPUs is not kept: what they would need is what is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tessera.packing.boards import Pool
from tessera.packing.online import DECREASING, gpus_online, shuffled
from tessera.packing.requests import RequestPlan

PACKERS = ("first_fit", DECREASING, "best_fit_hami_master", "mfi", "mcc", "fgd")
"""In the order of the tables: online policies, and first fit on the requests sorted by size."""
MOST_REQUESTS = 20_000
"""Beyond it packers take much longer than the plan, and their ratios have settled."""


def compare(
    pools: Sequence[Pool],
    demand: Mapping[str, int],
    plan: RequestPlan,
    *,
    seeds: Sequence[int],
    progress: Callable[[int], None] = lambda packed: None,
) -> list[dict[str, float]]:
    """One run per seed (an order of arrival): GPUs and their ratio to the plan's, by packer.

    Empty for several pools, and for more than MOST_REQUESTS. `progress` is told after each packer how many
    orders it has packed since: 1.
    """
    if len(pools) != 1 or sum(demand.values()) > MOST_REQUESTS:
        return []
    runs: list[dict[str, float]] = []
    for seed in seeds:
        arrivals = shuffled(demand, seed=seed)
        run: dict[str, float] = {"seed": seed}
        for packer in PACKERS:
            used = gpus_online(pools[0].geometry, arrivals, packer=packer)
            run[f"{packer}_gpus"] = used
            run[f"{packer}_ratio"] = used / plan.gpus
            progress(1)
        runs.append(run)
    return runs
