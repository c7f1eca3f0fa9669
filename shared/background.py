"""Background threads: one for a loop of its own, one for a step that is repeated.

Threads that carry out one piece of work and end with it (a pipe's reader, one connection of a proxy) are plain threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import structlog

from shared.backoff import Backoff

_log: Any = structlog.get_logger(__name__)


class BackgroundThread:
    """A named daemon thread that calls `run` once. Safe from any thread.

    `run` gets an event that `stop` sets: a loop waits on it instead of sleeping, so that it ends at once. An exception
    ends the thread and is reported by `threading.excepthook`.
    """

    def __init__(self, name: str, run: Callable[[threading.Event], object]) -> None:
        self._name = name
        self._run = run
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Does nothing while the thread runs. After `stop` it starts a new one.

        Raises RuntimeError if the system refuses another thread; it may be called again.
        """
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                return
            self._stopping = threading.Event()
            thread = threading.Thread(target=self._run, args=(self._stopping,), name=self._name, daemon=True)
            thread.start()
            # Only now: a thread that could not be started can't be joined either.
            self._thread = thread

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Asks the thread to end and waits for it, at most `timeout_seconds`. Returns whether it has ended.

        May be called before `start`, and twice.
        """
        with self._lock:
            self._stopping.set()
            thread = self._thread
        if thread is None:
            return True
        thread.join(timeout_seconds)
        return not thread.is_alive()


class PeriodicTask:
    """Calls `step` on a background thread from `start` to `stop`. Safe from any thread.

    `step` returns the seconds until its next call, or None for `interval_seconds`. The first call is immediate unless
    `waits_first`. `step` handles and logs the failures that it expects; any other exception is logged as
    `background.step_failed` and doesn't end the task: the next call comes after the delay of `retry`, which is the
    interval by default.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], float | None],
        interval_seconds: float,
        *,
        waits_first: bool = False,
        retry: Backoff | None = None,
    ) -> None:
        self._name = name
        self._step = step
        self._interval_seconds = interval_seconds
        self._waits_first = waits_first
        self._retry = retry or Backoff(interval_seconds, interval_seconds, jitter=0.0)
        self._failures = 0
        self._woken = threading.Event()
        self._thread = BackgroundThread(name, self._repeat)

    def start(self) -> None:
        """Does nothing while the task runs."""
        self._thread.start()

    def stop(self, timeout_seconds: float | None = None) -> bool:
        """Ends the task. Waits for a running step, at most `timeout_seconds`. Returns whether the task has ended."""
        self._thread.stop(0)
        self._woken.set()
        has_ended = self._thread.stop(timeout_seconds)
        if has_ended:
            self._woken.clear()
        return has_ended

    def wake(self) -> None:
        """Makes the next call now, or directly after a step that is running."""
        self._woken.set()

    def _repeat(self, stopping: threading.Event) -> None:
        wait = self._interval_seconds if self._waits_first else 0.0
        while not stopping.is_set():
            self._woken.wait(wait)
            self._woken.clear()
            if not stopping.is_set():
                wait = self._call()

    def _call(self) -> float:
        try:
            wait = self._step()
        except Exception:  # noqa: BLE001 - one failure must not end the task
            self._failures += 1
            _log.exception("background.step_failed", thread=self._name)
            return self._retry.delay_seconds(self._failures)
        self._failures = 0
        return self._interval_seconds if wait is None else max(0.0, wait)
