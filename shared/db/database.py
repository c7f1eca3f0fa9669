"""The one way to PostgreSQL: a bounded pool, transactions, and one place that maps driver errors."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import LiteralString, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from shared.db.rows import S, struct_row, value_row
from shared.errors import Unavailable

T = TypeVar("T")

Parameters = Mapping[str, object]

# Errors that another try may not meet: the server went away, refused, or chose this transaction as a victim.
TRANSIENT_ERRORS: tuple[type[Exception], ...] = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    psycopg.errors.IdleInTransactionSessionTimeout,
)
UniqueViolation = psycopg.errors.UniqueViolation

# A server that accepts the connection and then says nothing would be waited for without end.
_CONNECT_SECONDS = 5
# A process that is stopped inside a transaction would keep its row locks for as long as it sleeps.
_OPTIONS = "-c idle_in_transaction_session_timeout=60s"


class Connection(psycopg.Connection[TupleRow]):
    """A connection that fetches structs and single values.

    Gives up on a server that says nothing for `answer_seconds`; None waits as long as it takes.
    """

    answer_seconds: float | None = None

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                # The answer is still to come: nothing else can be sent here, not even a rollback.
                self.close()
            raise

    def fetch_one(self, row: type[S], query: LiteralString, parameters: Parameters | None = None) -> S | None:
        """The first row; None when there is none."""
        return self.cursor(row_factory=struct_row(row)).execute(query, parameters).fetchone()

    def fetch_all(self, row: type[S], query: LiteralString, parameters: Parameters | None = None) -> list[S]:
        return self.cursor(row_factory=struct_row(row)).execute(query, parameters).fetchall()

    def fetch_value(self, type_: type[T], query: LiteralString, parameters: Parameters | None = None) -> T | None:
        """The only column of the first row; None when there is no row, or it is NULL."""
        return self.cursor(row_factory=value_row(type_)).execute(query, parameters).fetchone()

    def fetch_values(self, type_: type[T], query: LiteralString, parameters: Parameters | None = None) -> list[T]:
        """The only column of each row, without NULLs."""
        values = self.cursor(row_factory=value_row(type_)).execute(query, parameters).fetchall()
        return [value for value in values if value is not None]

    def exists(self, query: LiteralString, parameters: Parameters | None = None) -> bool:
        """Whether the query returns a row."""
        return self.execute(query, parameters).fetchone() is not None


class Database:
    """A pool of connections. Safe from any thread; opens connections on first use.

    `transaction()` gives a connection inside a transaction that commits at the end of the block and rolls back on any
    exception. Within one transaction use the connection that it gave, never a second one.

    `timeout_seconds` bounds the wait for a connection, `answer_seconds` that for each answer of the server (None: as
    long as it takes); a statement that was given up may still take effect.
    """

    def __init__(
        self,
        url: str,
        *,
        maximum_connections: int = 10,
        timeout_seconds: float = 10.0,
        answer_seconds: float | None = None,
    ) -> None:
        def configure(connection: Connection) -> None:
            connection.answer_seconds = answer_seconds

        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url,
            connection_class=Connection,
            kwargs={
                "autocommit": False,
                "connect_timeout": _CONNECT_SECONDS,
                "options": _OPTIONS,
            },
            configure=configure,
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

    def fetch_one(self, row: type[S], query: LiteralString, parameters: Parameters | None = None) -> S | None:
        """As Connection.fetch_one, in a transaction of its own; so are the others."""
        with self.transaction() as connection:
            return connection.fetch_one(row, query, parameters)

    def fetch_all(self, row: type[S], query: LiteralString, parameters: Parameters | None = None) -> list[S]:
        with self.transaction() as connection:
            return connection.fetch_all(row, query, parameters)

    def fetch_value(self, type_: type[T], query: LiteralString, parameters: Parameters | None = None) -> T | None:
        with self.transaction() as connection:
            return connection.fetch_value(type_, query, parameters)

    def fetch_values(self, type_: type[T], query: LiteralString, parameters: Parameters | None = None) -> list[T]:
        with self.transaction() as connection:
            return connection.fetch_values(type_, query, parameters)

    def exists(self, query: LiteralString, parameters: Parameters | None = None) -> bool:
        with self.transaction() as connection:
            return connection.exists(query, parameters)

    @contextmanager
    def try_lock(self, key: int) -> Generator[bool]:
        """Whether this process holds the advisory lock for the length of the block; never waits for it.

        PostgreSQL frees it when the connection ends, however that happens.
        """
        with self.transaction() as connection:
            # The block may take its time; nothing but the advisory lock is held by this transaction.
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            query = "SELECT pg_try_advisory_xact_lock(%(key)s)"
            yield connection.fetch_value(bool, query, {"key": key}) is True

    def ping(self) -> None:
        self.exists("SELECT 1")

    def close(self) -> None:
        self._pool.close(timeout=2)
