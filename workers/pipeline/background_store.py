"""A thread that stores what the next deployment may start from, while later stages run."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable
from contextlib import ExitStack

import structlog

from shared.background import BackgroundThread

_log = structlog.get_logger(__name__)

# Jobs that wait; those of another deployment are dropped.
_WAITING = 2
# Storing must not slow deployments down.
_NICENESS = 5


class BackgroundStore:
    """Safe between threads. The thread starts with the first job and lives as long as the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue(_WAITING)
        self._thread = BackgroundThread(name, self._work)

    def submit(self, job: Callable[[], None], held: ExitStack) -> None:
        """Runs the job later, and closes `held` after it; only closes `held` where too many wait. Raises RuntimeError
        if no thread can be started.
        """
        try:
            self._thread.start()
        except RuntimeError:
            held.close()
            raise

        def run() -> None:
            with held:
                job()

        try:
            self._jobs.put_nowait(run)
        except queue.Full:
            held.close()

    def settle(self) -> None:
        """Blocks until all jobs are done or given up."""
        self._jobs.join()

    def _work(self, _stopping: threading.Event) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        while True:
            job = self._jobs.get()
            try:
                job()
            except Exception:  # noqa: BLE001 - it must not end the thread
                _log.exception("background_store.not_stored", store=self._name)
            finally:
                self._jobs.task_done()
