"""Two connections and one lock: the first holds it, the second is seen to wait for it, then the first commits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Generic, TypeVar

from shared.db.database import Connection, Database

T = TypeVar("T")

_WAITING = """
SELECT 1 FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND %(holder)s = ANY(pg_blocking_pids(pid))
"""


class Waiter(Generic[T]):
    """A call in a thread of its own."""

    def __init__(self, act: Callable[[], T]) -> None:
        self._act = act
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._act())
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            self._errors.append(error)

    def result(self) -> T:
        self.thread.join(120)
        assert not self.thread.is_alive()
        if self._errors:
            raise self._errors[0]
        return self._results[0]


@contextmanager
def overtaken(database: Database, act: Callable[[], T], change: Callable[[Connection], object]) -> Generator[Waiter[T]]:
    """`change` takes the lock and commits once `act` waits for it; gives the waiter afterwards."""
    with database.transaction() as connection:
        change(connection)
        holder = connection.fetch_value(int, "SELECT pg_backend_pid()")
        waiter = Waiter(act)
        while not database.exists(_WAITING, {"holder": holder}):
            # Either it waits for the lock or it has returned without having asked for it.
            waiter.thread.join(0.02)
            assert waiter.thread.is_alive(), "it decided without waiting for the lock"
    yield waiter
