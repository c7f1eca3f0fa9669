"""The pool of connections, on a server that doesn't answer in time."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest

from shared.db.database import Database
from shared.deployments.rows import DeploymentSettings
from shared.deployments.state import DeploymentStatus
from shared.errors import Unavailable
from tests.support.log_rows import eventually


def answers(database: Database) -> bool:
    try:
        return database.exists("SELECT 1")
    except Unavailable:
        return False


def test_an_answer_that_does_not_come_is_given_up_and_its_connection_with_it(database_url: str) -> None:
    database = Database(database_url, maximum_connections=1, answer_seconds=0.3)
    try:
        with pytest.raises(Unavailable):
            database.exists("SELECT pg_sleep(3600)")
        # The next one has a connection that works; on a busy machine its answer may be late, too.
        eventually(lambda: answers(database))
    finally:
        database.close()


def test_an_error_that_the_server_answers_keeps_the_connection(database_url: str) -> None:
    database = Database(database_url, maximum_connections=1, answer_seconds=120.0)
    try:
        database.exists("SELECT set_config('statement_timeout', '10', false)")
        before = database.fetch_value(int, "SELECT pg_backend_pid()")
        with pytest.raises(Unavailable):
            database.exists("SELECT pg_sleep(3600)")
        assert database.fetch_value(int, "SELECT pg_backend_pid()") == before
    finally:
        database.close()


def test_a_server_that_accepts_and_says_nothing_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = Database(f"postgresql://x:x@127.0.0.1:{port}/x", timeout_seconds=0.3)
        try:
            with pytest.raises(Unavailable):
                database.ping()
        finally:
            database.close()


def test_both_sides_of_a_connection_notice_that_the_other_has_vanished(database_url: str) -> None:
    database = Database(database_url)
    try:
        names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
        with database.transaction() as connection:
            values = [connection.fetch_value(str, "SELECT current_setting(%(name)s)", {"name": name}) for name in names]
            with socket.socket(fileno=os.dup(connection.fileno())) as client:
                options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
                own = [client.getsockopt(socket.IPPROTO_TCP, option) for option in options]
                assert client.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert [int(value or 0) for value in values] == own == [10, 5, 3, 20_000]
    finally:
        database.close()


def test_a_transaction_that_sleeps_is_ended_and_a_lock_that_works_is_not(database_url: str) -> None:
    database = Database(database_url)
    try:
        assert database.fetch_value(str, "SHOW idle_in_transaction_session_timeout") == "1min"

        def sleep_in_a_transaction() -> None:
            with database.transaction() as connection:
                connection.execute("SET LOCAL idle_in_transaction_session_timeout = '20ms'")
                with database.transaction() as other:
                    other.execute("SELECT pg_sleep(0.5)")
                connection.execute("SELECT 1")

        with pytest.raises(Unavailable):
            sleep_in_a_transaction()
        with database.try_lock(11, maximum_seconds=60) as is_held, database.transaction() as other:
            assert is_held
            other.execute("SELECT pg_sleep(0.1)")
    finally:
        database.close()


def test_a_holder_that_is_stuck_loses_its_lock(database: Database):
    def hold_it_too_long() -> None:
        with database.try_lock(12, maximum_seconds=0.1) as is_held:
            assert is_held
            eventually(is_free, 60)

    def is_free() -> bool:
        with database.try_lock(12, maximum_seconds=60) as is_held:
            return is_held

    with pytest.raises(Unavailable):
        hold_it_too_long()
    assert is_free()


class Fetched(msgspec.Struct, frozen=True):
    status: DeploymentStatus
    settings: DeploymentSettings
    commit_sha: str | None


_FETCHED = """
SELECT 'ready'::deployment_status AS status, '{"framework": "vite", "of_a_newer_version": 1}'::jsonb AS settings,
       NULL::text AS commit_sha, 1 AS of_a_newer_version
"""


def test_values_become_what_the_fields_say(database: Database) -> None:
    expected = Fetched(DeploymentStatus.READY, DeploymentSettings(framework="vite"), None)
    assert database.fetch_one(Fetched, _FETCHED) == expected
    assert database.fetch_all(Fetched, _FETCHED) == [expected]
    assert database.fetch_one(Fetched, _FETCHED + "WHERE false") is None


def test_a_value_that_does_not_fit_its_field_is_refused(database: Database) -> None:
    with pytest.raises(msgspec.ValidationError, match="status"):
        database.fetch_one(Fetched, "SELECT 'x' AS status, '{}'::jsonb AS settings, NULL::text AS commit_sha")
    with pytest.raises(msgspec.ValidationError, match="commit_sha"):
        database.fetch_one(Fetched, "SELECT 'ready' AS status, '{}'::jsonb AS settings")


def test_single_values_are_converted_and_null_is_none(database: Database) -> None:
    assert database.fetch_value(DeploymentStatus, "SELECT 'ready'::deployment_status") is DeploymentStatus.READY
    assert database.fetch_value(str, "SELECT NULL::text") is None
    assert database.fetch_values(int, "SELECT unnest(ARRAY[1, NULL, 2])") == [1, 2]
    assert database.exists("SELECT 1")
    assert not database.exists("SELECT 1 WHERE false")
