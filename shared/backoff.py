"""Delays between attempts that failed."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays: `base_seconds` after the first failure, times `factor` for each further one, up to
    `maximum_seconds`.

    `jitter` is the part of a delay that is random, from 0 (none of it) to 1 (all of it). Half of it keeps clients that
    failed together from coming back together, and still leaves the server time to recover.
    """

    base_seconds: float
    maximum_seconds: float
    jitter: float = 0.5
    factor: float = 2.0

    def delay_seconds(self, failures: int) -> float:
        """The delay after so many failures in a row, 1 or more."""
        # The exponent is bounded because a float overflows at 2 ** 1024.
        delay = min(self.maximum_seconds, self.base_seconds * self.factor ** min(failures - 1, 30))
        return delay * random.uniform(1 - self.jitter, 1)  # noqa: S311 - spreads load; no secret
