"""What a process without an API of its own says to probes: `/live` and `/ready` of its internal listener."""

from __future__ import annotations

import threading

LIVE_PATH = "/live"
READY_PATH = "/ready"


class ProcessHealth:
    """A process is live while its interpreter answers, and ready from `set_ready` to `set_not_ready`.

    Safe from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._problem: str | None = "The process is starting."

    def set_ready(self) -> None:
        with self._lock:
            self._problem = None

    def set_not_ready(self, problem: str) -> None:
        """`problem`: a sentence for operators."""
        with self._lock:
            self._problem = problem

    def answer(self, path: str) -> tuple[bool, str] | None:
        """Whether all is well, and the text; None for a path of something else."""
        with self._lock:
            problem = self._problem
        if path == LIVE_PATH:
            return True, "live"
        if path == READY_PATH:
            return problem is None, problem or "ready"
        return None
