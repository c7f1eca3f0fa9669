"""The one way to PostgreSQL: a bounded pool, transactions, and one place that maps driver errors."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from shared.errors import Unavailable

Connection = psycopg.Connection[DictRow]
Row = dict[str, Any]

# Errors that another try may not meet: the server went away, refused, or chose this transaction as a victim.
TRANSIENT_ERRORS: tuple[type[Exception], ...] = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
)
UniqueViolation = psycopg.errors.UniqueViolation


class Database:
    """A pool of connections. Safe from any thread; opens connections on first use.

    `transaction()` gives a connection inside a transaction that commits at the end of the block and rolls back on any
    exception. Within one transaction use the connection that it gave, never a second one.
    """

    def __init__(self, url: str, *, maximum_connections: int = 10, timeout_seconds: float = 10.0) -> None:
        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url,
            connection_class=psycopg.Connection[DictRow],
            kwargs={"row_factory": dict_row, "autocommit": False},
            min_size=0,
            max_size=maximum_connections,
            timeout=timeout_seconds,
            max_idle=60,
            reconnect_timeout=5,
            check=ConnectionPool[Connection].check_connection,
            open=False,
        )
        self._pool.open(wait=False)

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        """Raises `Unavailable` when no connection can be had or the connection breaks."""
        try:
            with self._pool.connection() as connection:
                yield connection
        except TRANSIENT_ERRORS as error:
            raise Unavailable("The database does not answer; try again in a few seconds.") from error

    def fetch_all(self, query: str, parameters: dict[str, Any] | None = None) -> list[Row]:
        with self.transaction() as connection:
            return connection.execute(query, parameters).fetchall()  # pyright: ignore[reportArgumentType, reportCallIssue]

    def fetch_one(self, query: str, parameters: dict[str, Any] | None = None) -> Row | None:
        with self.transaction() as connection:
            return connection.execute(query, parameters).fetchone()  # pyright: ignore[reportArgumentType, reportCallIssue]

    @contextmanager
    def try_lock(self, key: int) -> Generator[bool]:
        """Whether this process holds the advisory lock for the length of the block; never waits for it.

        PostgreSQL frees it when the connection ends, however that happens.
        """
        with self.transaction() as connection:
            row = connection.execute("SELECT pg_try_advisory_xact_lock(%s) AS is_held", (key,)).fetchone()
            yield row is not None and row["is_held"]

    def ping(self) -> None:
        self.fetch_one("SELECT 1 AS one")

    def close(self) -> None:
        self._pool.close(timeout=2)
