"""Access to PostgreSQL: a bounded pool, transactions, and one place that maps driver errors."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import LiteralString, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool, PoolTimeout

from shared.db.rows import S, struct_row, value_row
from shared.errors import Unavailable
from shared.metrics import observe_query

T = TypeVar("T")

Parameters = Mapping[str, object]

# Errors that a retry may avoid: the server went away, refused, or chose this transaction as a victim.
TRANSIENT_ERRORS: tuple[type[Exception], ...] = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    PoolTimeout,
    psycopg.errors.IdleInTransactionSessionTimeout,
)
UniqueViolation = psycopg.errors.UniqueViolation

# Without a limit, a server that accepts the connection and sends nothing would block for ever.
_CONNECT_SECONDS = 5
# A side that vanishes without a word, as its machine died or is cut off, is noticed after so long: by this process,
# which would wait for its answer for up to two hours, and by the server, which would keep its locks for as long.
_PROBE_AFTER_SECONDS, _PROBE_EVERY_SECONDS, _PROBES = 10, 5, 3
_UNACKNOWLEDGED_MILLISECONDS = 20_000
_PROBING = {
    "keepalives_idle": _PROBE_AFTER_SECONDS,
    "keepalives_interval": _PROBE_EVERY_SECONDS,
    "keepalives_count": _PROBES,
    "tcp_user_timeout": _UNACKNOWLEDGED_MILLISECONDS,
}
_OPTIONS = (
    # A process that is stopped inside a transaction would keep its row locks until it continues.
    "-c idle_in_transaction_session_timeout=60s"
    f" -c tcp_keepalives_idle={_PROBE_AFTER_SECONDS} -c tcp_keepalives_interval={_PROBE_EVERY_SECONDS}"
    f" -c tcp_keepalives_count={_PROBES} -c tcp_user_timeout={_UNACKNOWLEDGED_MILLISECONDS}"
)
_LIMIT_OF_TRANSACTION = "SET LOCAL idle_in_transaction_session_timeout = '60s'"


class Connection(psycopg.Connection[TupleRow]):
    """A connection that fetches structs and single values.

    Gives up on a server that sends nothing for `answer_seconds`; None waits without a limit.
    """

    answer_seconds: float | None = None

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        started = time.perf_counter()
        try:
            return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                # The response is outstanding: nothing else can be sent on this connection, not even a rollback.
                self.close()
            raise
        finally:
            observe_query(time.perf_counter() - started)

    def fetch_one(self, row: type[S], query: LiteralString, parameters: Parameters | None = None) -> S | None:
        """Returns the first row, or None."""
        return self.cursor(row_factory=struct_row(row)).execute(query, parameters).fetchone()

    def fetch_all(self, row: type[S], query: LiteralString, parameters: Parameters | None = None) -> list[S]:
        return self.cursor(row_factory=struct_row(row)).execute(query, parameters).fetchall()

    def fetch_value(self, type_: type[T], query: LiteralString, parameters: Parameters | None = None) -> T | None:
        """Returns the only column of the first row; None if there is no row or it is NULL."""
        return self.cursor(row_factory=value_row(type_)).execute(query, parameters).fetchone()

    def fetch_values(self, type_: type[T], query: LiteralString, parameters: Parameters | None = None) -> list[T]:
        """Returns the only column of each row, without NULLs."""
        values = self.cursor(row_factory=value_row(type_)).execute(query, parameters).fetchall()
        return [value for value in values if value is not None]

    def exists(self, query: LiteralString, parameters: Parameters | None = None) -> bool:
        """Whether the query returns a row."""
        return self.execute(query, parameters).fetchone() is not None


def check_connection(url: str) -> None:
    """Raises Unavailable with the driver's or the server's reason."""
    try:
        psycopg.connect(url, connect_timeout=_CONNECT_SECONDS).close()
    except psycopg.Error as error:
        raise Unavailable(str(error).strip()) from error


def connections_for(threads: int) -> int:
    """The most connections that a worker with so many threads needs: one for each at the same moment, and one besides
    for its background tasks and for a transaction that another one of the same thread waits for."""
    return threads + 1


class Database:
    """A pool of connections. Safe from any thread; opens connections on first use.

    `transaction()` yields a connection inside a transaction that commits at the end of the block and rolls back on any
    exception. Within one transaction use this connection, never a second one.

    `timeout_seconds` limits the wait for a connection, `answer_seconds` the wait for each response of the server (None:
    no limit). A statement that timed out may still take effect. `name` is shown to operators (pg_stat_activity).
    `is_pooled`: a pooler in transaction mode is in between, which knows neither prepared statements nor options.
    """

    def __init__(
        self,
        url: str,
        *,
        maximum_connections: int = 10,
        timeout_seconds: float = 10.0,
        answer_seconds: float | None = None,
        name: str = "cloudify",
        is_pooled: bool = False,
    ) -> None:
        self._is_pooled = is_pooled

        def configure(connection: Connection) -> None:
            connection.answer_seconds = answer_seconds

        self._pool: ConnectionPool[Connection] = ConnectionPool(
            url,
            connection_class=Connection,
            kwargs={
                "autocommit": False,
                "connect_timeout": _CONNECT_SECONDS,
                "application_name": name,
                **({"prepare_threshold": None} if is_pooled else {"options": _OPTIONS}),
                **_PROBING,
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
        """Raises `Unavailable` if no connection is available or the connection breaks."""
        connection: Connection | None = None
        try:
            with self._pool.connection() as connection:
                if self._is_pooled:
                    connection.execute(_LIMIT_OF_TRANSACTION)
                yield connection
        except TRANSIENT_ERRORS as error:
            raise _unavailable() from error
        except psycopg.InternalError as error:
            # So psycopg says that PgBouncer had to end the session.
            if connection is None or not connection.closed:
                raise
            raise _unavailable() from error

    def fetch_one(self, row: type[S], query: LiteralString, parameters: Parameters | None = None) -> S | None:
        """Calls Connection.fetch_one in its own transaction. The following methods do the same."""
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
    def try_lock(self, key: int, *, maximum_seconds: float) -> Generator[bool]:
        """Tries to take the advisory lock for the block, without waiting. Yields whether it is held.

        PostgreSQL releases it when the connection ends for any reason, and after `maximum_seconds` in any case: a
        process that is suspended or stuck would otherwise keep it for ever. A block that takes longer isn't
        interrupted, and ends with `Unavailable`. Works through a pooler in transaction mode.
        """
        with self.transaction() as connection:
            # The transaction does nothing while the block runs, and holds nothing but the advisory lock.
            connection.execute(
                "SELECT set_config('idle_in_transaction_session_timeout', %(limit)s, true)",
                {"limit": f"{int(maximum_seconds * 1000)}ms"},
            )
            query = "SELECT pg_try_advisory_xact_lock(%(key)s)"
            yield connection.fetch_value(bool, query, {"key": key}) is True

    def server_time(self) -> float:
        """PostgreSQL's clock, in seconds since the epoch."""
        found = self.fetch_value(float, "SELECT extract(epoch FROM clock_timestamp())::float8")
        return found or 0.0

    def ping(self) -> None:
        self.exists("SELECT 1")

    def close(self) -> None:
        self._pool.close(timeout=2)


def _unavailable() -> Unavailable:
    return Unavailable("The database does not answer; try again in a few seconds.")
