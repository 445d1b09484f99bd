"""The one retry policy: exponential, capped, with full jitter.

Full jitter (a uniform draw between half and the whole of the exponential step) keeps many clients that
failed together from returning together. Half as the floor, so that a retry is never immediate.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Delays for attempt 0, 1, 2, …, in seconds."""

    first_seconds: float = 0.2
    limit_seconds: float = 30.0

    def delay(self, attempt: int) -> float:
        """Seconds to wait after failure number `attempt` (from 0)."""
        # The exponent is capped because 2**1100 does not fit a float.
        step = min(self.limit_seconds, self.first_seconds * 2.0 ** min(attempt, 32))
        return float(step * random.uniform(0.5, 1.0))
