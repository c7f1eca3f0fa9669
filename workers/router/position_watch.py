"""Tells Redis how far this router is, and learns from Redis and other routers whether the log has grown meanwhile.

It has a thread of its own: a database that has become unreachable keeps a call of the agent waiting for seconds.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import structlog

from shared.background import PeriodicTask
from shared.routing.bell import RouteBell
from shared.routing.changes import Position
from workers.router.peers import Peers, PeerState

# Asked at a time while PostgreSQL is away.
_ASKED_PEERS = 3
# A router that hasn't been at the end of the log for so long asks others how far it goes.
_CONFIRMED_SECONDS = 0.6
_WATCH_SECONDS = 0.15

_log: Any = structlog.get_logger(__name__)


class PositionWatch:
    """From `start` to `stop`; safe from any thread. `position` returns the last change that this router has applied."""

    def __init__(self, bell: RouteBell, peers: Peers, position: Callable[[], Position | None]) -> None:
        self._bell = bell
        self._peers = peers
        self._position = position
        self._remembered: Position | None = None
        # When this router was last known to be at the end of the log.
        self._confirmed_at = float("-inf")
        self._is_behind = False
        self._lock = threading.Lock()
        self._task = PeriodicTask("router-watch", self._watch, _WATCH_SECONDS)

    def start(self) -> None:
        self._task.start()

    def stop(self) -> None:
        self._task.stop(1.0)

    def wake(self) -> None:
        """The position has changed."""
        self._task.wake()

    @property
    def is_behind(self) -> bool:
        """Whether others know of changes that this router hasn't applied."""
        return self._is_behind

    def confirm(self, asked_at: float) -> None:
        """This router was at the end of the log at `asked_at` (time.monotonic()) or later."""
        with self._lock:
            self._confirmed_at = asked_at
            self._set_behind(is_behind=False)

    def look(self, position: Position) -> None:
        """Asks Redis and some other routers now."""
        known = self._peers.urls
        peers = random.sample(known, min(_ASKED_PEERS, len(known)))
        asked_at = time.monotonic()
        pool = ThreadPoolExecutor(len(peers) + 1, thread_name_prefix="router-watch")
        try:
            asked = [pool.submit(self._bell.remembered), *(pool.submit(self._peers.ask, url) for url in peers)]
            # The first that knows of more is enough: others may let it wait.
            is_behind = any(_is_newer(future.result(), position) for future in as_completed(asked))
        finally:
            pool.shutdown(wait=False)
        with self._lock:
            # Unless the end of the log was reached meanwhile.
            if self._confirmed_at < asked_at:
                self._set_behind(is_behind=is_behind)

    def _watch(self) -> None:
        position = self._position()
        if position is None:
            return
        if position != self._remembered and self._bell.remember(position):
            self._remembered = position
        if time.monotonic() - self._confirmed_at >= _CONFIRMED_SECONDS:
            self.look(position)

    def _set_behind(self, *, is_behind: bool) -> None:
        if is_behind != self._is_behind:
            _log.warning("router.behind" if is_behind else "router.not_behind")
        self._is_behind = is_behind


def _is_newer(other: Position | PeerState | None, position: Position) -> bool:
    return other is not None and other.epoch == position.epoch and other.number > position.number
