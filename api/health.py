"""Checks of the API's dependencies: all at once, with a second each, at most every two seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import structlog

from shared.clock import Clock

_log = structlog.get_logger("health")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """`problem` is None when the dependency answered."""

    name: str
    milliseconds: float
    problem: str | None


class HealthChecks:
    """`checks`: name → a call that raises when the dependency doesn't answer. `is_migrated` says whether the database
    has every migration of this version; it is called until it is true once. Safe from any thread."""

    def __init__(
        self,
        checks: Mapping[str, Callable[[], None]],
        *,
        is_migrated: Callable[[], bool],
        clock: Clock,
        timeout_seconds: float = 1.0,
        cache_seconds: float = 2.0,
    ) -> None:
        self._checks = checks
        self._is_migrated = is_migrated
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._cache_seconds = cache_seconds
        self._executor = ThreadPoolExecutor(max_workers=len(checks) + 1, thread_name_prefix="health")
        self._lock = threading.Lock()
        self._cached: tuple[float, list[CheckResult]] | None = None
        self._running: dict[str, Future[CheckResult]] = {}
        self._was_migrated = False
        self._migrations_lock = threading.Lock()
        self._migrations: Future[None] | None = None

    def results(self) -> list[CheckResult]:
        with self._lock:
            now = self._clock.monotonic()
            if self._cached is None or now - self._cached[0] >= self._cache_seconds:
                self._cached = (self._clock.monotonic(), self._ask())
            return self._cached[1]

    def has_started(self) -> bool:
        """Whether the database is migrated; also False if it doesn't answer in time."""
        if self._was_migrated:
            return True
        with self._migrations_lock:
            # A check that still hangs is waited for, instead of starting another.
            if self._migrations is None or self._migrations.done():
                self._migrations = self._executor.submit(self._ask_migrations)
            asked = self._migrations
        wait([asked], timeout=self._timeout_seconds)
        return self._was_migrated

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _ask(self) -> list[CheckResult]:
        # A check that still hangs is not started again.
        for name in self._checks:
            if name not in self._running or self._running[name].done():
                self._running[name] = self._executor.submit(self._run, name)
        wait(self._running.values(), timeout=self._timeout_seconds)
        late = round(self._timeout_seconds * 1000)
        return [
            future.result() if future.done() else CheckResult(name, late, f"no answer within {late} ms")
            for name, future in self._running.items()
        ]

    def _ask_migrations(self) -> None:
        try:
            self._was_migrated = self._is_migrated()
        except Exception as error:  # noqa: BLE001 - after any failure the answer is: not yet
            _log.warning("migrations_unknown", error=str(error))

    def _run(self, name: str) -> CheckResult:
        begun = self._clock.monotonic()
        problem: str | None = None
        try:
            self._checks[name]()
        except Exception as error:  # noqa: BLE001 - any error is the answer
            problem = str(error) or type(error).__name__
            _log.warning("dependency_down", dependency=name, error=problem)
        return CheckResult(name, round((self._clock.monotonic() - begun) * 1000, 1), problem)
