"""Compares this machine's clock with those of PostgreSQL and Redis.

Leases, locks and order depend on no machine's clock, but sessions, tokens, signatures of the object store and times in
logs do. The clock of a machine counts as wrong if it is off PostgreSQL's and Redis's doesn't support it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from shared.background import PeriodicTask
from shared.clock import Clock, SystemClock
from shared.errors import Unavailable

# Sessions' grace, tickets and signed requests bear so much; a synchronised clock is off by milliseconds.
BOUND_SECONDS = 30.0
_LOOK_SECONDS = 1.0
_COMPARE_SECONDS = 60.0
_COMPARE_AGAIN_SECONDS = 5.0
# A change of the wall clock against the monotonic one, after which the servers are asked at once.
_JUMP_SECONDS = 2.0

_log: Any = structlog.get_logger(__name__)

# Returns a server's time in seconds since the epoch. Raises Unavailable.
ReadClock = Callable[[], float]


class ClockGuard:
    """`servers`: name → its clock, the one that decides first. Safe from any thread.

    `on_change` gets the problem as a sentence, or None when the clock is right again.
    """

    def __init__(
        self,
        servers: Mapping[str, ReadClock],
        *,
        on_change: Callable[[str | None], None] = lambda _problem: None,
        clock: Clock | None = None,
        bound_seconds: float = BOUND_SECONDS,
    ) -> None:
        self._servers = servers
        self._on_change = on_change
        self._clock = clock or SystemClock()
        self._bound_seconds = bound_seconds
        self._problem: str | None = None
        self._compare_at = 0.0
        self._drift = self._drift_now()
        self._task = PeriodicTask("clock-guard", self.look, _LOOK_SECONDS)

    @property
    def problem(self) -> str | None:
        """What is wrong with the clock, by the last comparison."""
        return self._problem

    def start(self) -> None:
        """Compares every minute, every 5 s while the clock is wrong, and at once after it was set."""
        self._task.start()

    def stop(self) -> None:
        self._task.stop(1.0)

    def look(self) -> None:
        """Compares if it is time to."""
        drift = self._drift_now()
        has_jumped = abs(drift - self._drift) > _JUMP_SECONDS
        if has_jumped or self._clock.monotonic() >= self._compare_at:
            self._drift = drift
            self.compare()

    def compare(self) -> str | None:
        """Asks the servers now. Returns the problem. While no server answers, the last answer stands."""
        ahead = self.differences()
        if ahead:
            self._judge(ahead)
        wait = _COMPARE_SECONDS if self._problem is None and ahead else _COMPARE_AGAIN_SECONDS
        self._compare_at = self._clock.monotonic() + wait
        return self._problem

    def differences(self) -> dict[str, float]:
        """How many seconds this machine's clock is ahead of each server that answers, without what the answer took."""
        found: dict[str, float] = {}
        for name, read in self._servers.items():
            before, began = self._clock.now().timestamp(), self._clock.monotonic()
            try:
                server = read()
            except Unavailable as error:
                _log.debug("clock.not_compared", server=name, error=str(error))
                continue
            half = (self._clock.monotonic() - began) / 2
            ahead = before + half - server
            # It answered at some moment of the wait, so that much isn't known.
            found[name] = 0.0 if abs(ahead) <= half else ahead - half if ahead > 0 else ahead + half
        return found

    def _judge(self, ahead: dict[str, float]) -> None:
        wrong = [name for name, seconds in ahead.items() if abs(seconds) > self._bound_seconds]
        # With two servers that disagree, the one that agrees with this machine is right.
        is_wrong = len(wrong) == len(ahead)
        problem = self._sentence(ahead) if is_wrong else None
        if wrong and not is_wrong:
            _log.error("clock.of_server_wrong", servers=wrong, ahead_seconds={name: -ahead[name] for name in wrong})
        if (problem is None) == (self._problem is None):
            self._problem = problem
            return
        self._problem = problem
        if problem is None:
            _log.warning("clock.right_again")
        else:
            _log.error("clock.wrong", problem=problem)
        self._on_change(problem)

    def _sentence(self, ahead: dict[str, float]) -> str:
        off = " and ".join(
            f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} {name}'s"
            for name, seconds in ahead.items()
        )
        return (
            f"This machine's clock is {off}, more than {self._bound_seconds:.0f} s; synchronise it, for example with"
            " chrony or systemd-timesyncd."
        )

    def _drift_now(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()
