"""Deletes the scratch directories that dead workers left on this host, which no process of another host can see."""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from shared.background import PeriodicTask
from shared.errors import Unavailable
from workers.filesystem.trees import StageDirectories

_INTERVAL_SECONDS = 3600.0
# Spreads the stage workers of a host, which all do it, over the hour.
_JITTER = 0.5

_log = structlog.get_logger(__name__)


class ScratchSweep:
    """Sweeps about hourly from `start` to `stop`. `is_live` tells whether a deployment hasn't ended.

    Costs a look at one directory, and a query for each entry that hasn't changed for an hour.
    """

    def __init__(
        self,
        directories: StageDirectories,
        is_live: Callable[[str], bool],
        *,
        interval_seconds: float = _INTERVAL_SECONDS,
    ) -> None:
        self._directories = directories
        self._is_live = is_live
        self._interval_seconds = interval_seconds
        self._task = PeriodicTask("scratch-sweep", self._sweep, self._next_seconds(), waits_first=True)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        """Doesn't wait for a deletion under way; the next sweep of any worker continues it."""
        self._task.stop(0)

    def _sweep(self) -> float:
        try:
            self._directories.sweep(self._is_live)
        except (Unavailable, OSError) as error:
            _log.warning("scratch.sweep_delayed", error=str(error))
        return self._next_seconds()

    def _next_seconds(self) -> float:
        return self._interval_seconds * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - not for secrets
