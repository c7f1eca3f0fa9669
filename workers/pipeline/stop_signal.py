"""Why a stage has to stop, as one event."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

from shared.queue.base import Lease


@contextmanager
def interruption(lease: Lease, log_lost: threading.Event) -> Generator[threading.Event]:
    """One event for all reasons to stop: lost, cancelled, stopping."""
    interrupted, over = threading.Event(), threading.Event()
    reasons = (lease.lost, lease.cancelled, lease.stopping, log_lost)

    def watch() -> None:
        while not over.wait(0.05):
            if any(reason.is_set() for reason in reasons):
                interrupted.set()
                return

    watcher = threading.Thread(target=watch, name="interruption", daemon=True)
    watcher.start()
    try:
        yield interrupted
    finally:
        over.set()
        watcher.join()
