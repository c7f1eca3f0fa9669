"""Shared by tests with two connections: an act that has to wait for the other's transaction."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Generator

import psycopg

_TIMEOUT_SECONDS = 120.0
_WAITING = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


class Blocked:
    """An act in a thread of its own. `result` waits for its end, then returns or raises what the act did."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._value: object = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._act()
        except BaseException as error:  # noqa: BLE001 - it is raised where the test asks for the result
            self._error = error

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> object:
        self._thread.join(_TIMEOUT_SECONDS)
        assert self.has_ended, "the act still waits"
        if self._error is not None:
            raise self._error
        return self._value


@contextlib.contextmanager
def blocked(database_url: str, act: Callable[[], object]) -> Generator[Blocked]:
    """Starts the act, which must come to wait for a lock that the caller's transaction holds."""
    waiting = Blocked(act)
    with psycopg.connect(database_url, autocommit=True) as connection:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while connection.execute(_WAITING).fetchone() == (0,):
            assert not waiting.has_ended, "the act did not wait for the lock"
            assert time.monotonic() < deadline, "the act did not come to wait"
            time.sleep(0.01)
    yield waiting
