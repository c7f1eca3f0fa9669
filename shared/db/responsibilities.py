"""Work that one process of several does at a time, each piece in a loop of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from shared.background import BackgroundThread
from shared.db.database import Database
from shared.errors import PlatformError, Unavailable

# A pass over the queue takes seconds with thousands of live deployments.
_LOCK_SECONDS = 120.0
# Passes that run when the process stops may use so long to end; they are repeated if they need longer.
_STOP_SECONDS = 5.0

_log: Any = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Responsibility:
    """Steps that run in this order, under one lock. `lock`: any constant that nothing else locks."""

    name: str
    lock: int
    every_seconds: float
    steps: tuple[Callable[[], None], ...]
    lock_seconds: float = _LOCK_SECONDS


class ResponsibilityLoops:
    """None of the responsibilities waits for another, and of several processes one at a time does each.

    A lock ends with its connection, and after `lock_seconds` in any case: a process that is stuck, suspended or cut off
    doesn't keep the others from taking over.
    """

    def __init__(self, database: Database, responsibilities: Sequence[Responsibility]) -> None:
        self._database = database
        self._responsibilities = responsibilities

    def run(self, stop: threading.Event) -> None:
        """Runs a loop for each responsibility until `stop` is set."""
        loops = [
            BackgroundThread(f"responsibility-{part.name}", partial(self._repeat, part, stop))
            for part in self._responsibilities
        ]
        for loop in loops:
            loop.start()
        stop.wait()
        deadline = time.monotonic() + _STOP_SECONDS
        for loop in loops:
            loop.stop(max(0.0, deadline - time.monotonic()))

    def run_once(self) -> None:
        """One pass over everything, without locks."""
        for part in self._responsibilities:
            _run_steps(part)

    def _repeat(self, part: Responsibility, stop: threading.Event, _stopping: threading.Event) -> None:
        while not stop.is_set():
            _attempt(part.name, partial(self._run_alone, part))
            stop.wait(part.every_seconds)

    def _run_alone(self, part: Responsibility) -> None:
        with self._database.try_lock(part.lock, maximum_seconds=part.lock_seconds) as is_held:
            if is_held:
                _run_steps(part)


def _run_steps(part: Responsibility) -> None:
    """A step that fails is logged and tried again at the next pass; the following ones run."""
    for step in part.steps:
        _attempt(step.__name__, step)


def _attempt(name: str, step: Callable[[], None]) -> None:
    try:
        step()
    except (Unavailable, PlatformError, OSError) as error:
        _log.warning("responsibility.step_failed", step=name, error=str(error))
    except Exception:  # noqa: BLE001 - the other steps, and the next pass, must not end with it
        _log.exception("responsibility.step_crashed", step=name)
