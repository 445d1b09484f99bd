"""What a planner without a solver needs: the comparison for services.

Each service takes the segment with the most throughput per compute slice, as many as its rate fills, and for
the rest the smallest slice that is enough (the segment configurator of ParvaGPU, SC'24). The slices are then
placed largest first, each on the first GPU where it fits. ParvaGPU's last step, which cuts slices of poorly
filled GPUs into smaller ones, is not part of it.
"""

from __future__ import annotations

import math
from collections import Counter

from tessera.packing.online import DECREASING, gpus_online
from tessera.packing.services import Measurement, Question, best_segments, usable


def greedy_gpus(question: Question) -> int | None:
    """The number of GPUs; None with several models or a limit, for which this planner has no rule."""
    if len(question.pools) != 1 or question.pools[0].limit is not None:
        return None
    pool = question.pools[0]
    shape = {p.name: (p.memory_slices, p.compute_slices) for p in pool.board.profiles}
    wanted: Counter[str] = Counter()
    used = question.head_room.utilisation
    for service in question.services:
        segments = list(best_segments(usable(question, service)).values())

        def density(m: Measurement) -> float:
            return m.throughput_per_second / shape[m.profile][1]

        best = max(segments, key=density)
        # The last slice is chosen for what is left, also when the best ones would fill the rate exactly.
        full = max(0, math.ceil(service.rate_per_second / (used * best.throughput_per_second)) - 1)
        rest = service.rate_per_second - full * used * best.throughput_per_second
        enough = [m for m in segments if used * m.throughput_per_second >= rest]
        last = min(enough, key=lambda m: shape[m.profile])
        wanted[best.profile] += full
        wanted[last.profile] += 1
    return gpus_online(pool.geometry, list(wanted.elements()), packer=DECREASING)
