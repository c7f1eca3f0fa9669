"""The database behind PgBouncer in transaction mode, where a connection has another session in each transaction."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.db.database import Database
from shared.db.migrate import is_migrated, migrate, migrations
from shared.errors import Unavailable
from shared.stack.postgres import PostgresServer
from tests.support.databases import fresh_database
from tests.support.log_rows import eventually
from tests.support.pooler import find_pgbouncer, pooled

pytestmark = pytest.mark.integration
PROGRAM = find_pgbouncer()
REASON = "PgBouncer isn't installed; .ci/run unpacks the Debian package pgbouncer into .venv"
CONNECTIONS = 4


@pytest.fixture
def pooled_url(database_url: str) -> Iterator[str]:
    if PROGRAM is None:
        pytest.skip(REASON)
    with pooled(PROGRAM, database_url, connections=CONNECTIONS) as url:
        yield url


def test_many_clients_share_few_connections(pooled_url: str, database: Database) -> None:
    """Statements that would be prepared after five uses run on every session."""
    clients = [Database(pooled_url, name=f"test {number}", is_pooled=True) for number in range(10)]

    def work(client: Database) -> int:
        return sum(client.fetch_value(int, "SELECT %(n)s::int8 + 1", {"n": n}) or 0 for n in range(40))

    try:
        with ThreadPoolExecutor(20) as threads:
            assert list(threads.map(work, clients * 2)) == [820] * 20
        held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        assert database.fetch_value(int, held) == CONNECTIONS
        shown = clients[0].fetch_value(str, "SHOW idle_in_transaction_session_timeout")
        assert shown == "1min"
    finally:
        for client in clients:
            client.close()


def test_locks_exclude_each_other_and_a_stuck_holder_loses_its_lock(pooled_url: str) -> None:
    first, second = (Database(pooled_url, is_pooled=True) for _ in range(2))
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with first.try_lock(5, maximum_seconds=60) as is_held:
            assert is_held
            held.set()
            assert go_on.wait(60)

    def is_free() -> bool:
        with second.try_lock(5, maximum_seconds=60) as is_held:
            return is_held

    def hold_too_long() -> None:
        with first.try_lock(5, maximum_seconds=0.2) as is_held:
            assert is_held
            eventually(is_free, 60)

    try:
        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(60)
        assert not is_free()
        go_on.set()
        holder.join()
        assert is_free()
        with pytest.raises(Unavailable):
            hold_too_long()
        assert is_free()
    finally:
        go_on.set()
        first.close()
        second.close()


def test_migrations_run_through_it(postgres_server: PostgresServer) -> None:
    if PROGRAM is None:
        pytest.skip(REASON)
    with (
        fresh_database(postgres_server, "template0") as url,
        pooled(PROGRAM, url, connections=CONNECTIONS) as pooled_url,
        ThreadPoolExecutor(6) as threads,
    ):
        # More than there are sessions: those that wait leave one to the one that migrates.
        applied = list(threads.map(migrate, [pooled_url] * 6))
        assert sorted(map(len, applied)) == [*[0] * 5, len(migrations())]
        assert is_migrated(pooled_url)
