"""How a step of a deployment's or release's life reaches the database: one transaction, repeated during an outage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import tenacity

from schemas.logs import LogEntry
from shared.db.database import Connection, Database
from shared.errors import PlatformError, Unavailable
from shared.logs.base import LogStore, Notifier
from shared.routing.changes import RouteChange
from shared.text.storable import storable

T = TypeVar("T")

_OUTAGE_SECONDS = 60
_MAXIMUM_MESSAGE = 4000


class ChangeRoutes(Protocol):
    def __call__(self, connection: Connection, *changes: RouteChange) -> int:
        """See Publisher.change_routes."""
        ...


class LoggedSteps:
    """Steps of deployments: what they change and what they log is one transaction. Safe from any thread."""

    def __init__(self, database: Database, log_store: LogStore, notifier: Notifier) -> None:
        self._database = database
        self._log_store = log_store
        self._notifier = notifier

    def run(self, deployment_id: str, fence: int, step: Callable[[Connection], tuple[T, list[LogEntry]]]) -> T:
        """`step` returns the result and the entries to append. It may be called again after a lost reply."""

        def attempt() -> tuple[T, Sequence[LogEntry], tuple[int, int]]:
            with self._database.transaction() as connection:
                result, entries = step(connection)
                numbers = (0, 0)
                if entries:
                    numbers = self._log_store.append(connection, deployment_id, entries, fence=fence)
                return result, entries, numbers

        result, entries, (first, last) = wait_out_outage(attempt)
        if entries:
            self._notifier.notify(deployment_id, first, last, entries)
        return result


def wait_out_outage(attempt: Callable[[], T]) -> T:
    """Repeats the attempt for up to a minute while the database is away, then raises PlatformError."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(Unavailable),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=3),
        stop=tenacity.stop_after_delay(_OUTAGE_SECONDS),
        reraise=True,
    )
    try:
        return retrying(attempt)
    except Unavailable as error:
        raise PlatformError(error.message) from error


def recordable(message: str) -> str:
    """The message of a failure, as the database takes it."""
    return storable(message)[:_MAXIMUM_MESSAGE]
