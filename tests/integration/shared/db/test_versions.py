"""Two neighbouring versions share a database; one that is further away refuses it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import psycopg
import pytest

from shared.db.migrate import is_migrated, migrate, wait_until_migrated
from shared.db.schema_version import SCHEMA_VERSION, MigrationError, check_schema
from shared.stack.postgres import PostgresServer
from tests.support.databases import fresh_database
from tests.support.environment import ENVIRONMENT

pytestmark = pytest.mark.integration


def add_migration(url: str, version: int) -> None:
    """As a newer version has applied it."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO schema_migrations (name, checksum, version) VALUES ('9999_later.sql', 'x', %s)", [version]
        )


def test_this_version_works_with_a_database_of_the_next_one(database_url: str) -> None:
    add_migration(database_url, SCHEMA_VERSION + 1)
    assert is_migrated(database_url)
    assert migrate(database_url) == []
    check_schema(database_url)
    assert wait_until_migrated(database_url, threading.Event())


def test_a_database_that_is_two_versions_ahead_is_refused(database_url: str) -> None:
    add_migration(database_url, SCHEMA_VERSION + 2)
    assert not is_migrated(database_url)
    for start in (migrate, check_schema, lambda url: wait_until_migrated(url, threading.Event())):
        with pytest.raises(MigrationError, match=r"more than one newer than this one \(it has 9999_later"):
            start(database_url)


def test_a_database_of_another_line_of_versions_is_not_migrated(database_url: str) -> None:
    add_migration(database_url, SCHEMA_VERSION + 1)
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE name LIKE '0013%'")
    with pytest.raises(MigrationError, match=r"has 9999_later.sql, .* and lacks 0013_routes.sql"):
        migrate(database_url)


@pytest.mark.parametrize(
    "module", ["api.main", "workers.main clone", "workers.reconciler", "workers.router.main", "workers.exporter.main"]
)
def test_a_process_ends_with_the_reason(database_url: str, module: str, tmp_path: os.PathLike[str]) -> None:
    add_migration(database_url, SCHEMA_VERSION + 2)
    own = {
        "CLOUDIFY_DATABASE_URL": database_url,
        "CLOUDIFY_HOME": str(tmp_path),
        "CLOUDIFY_METRICS_PORT": "0",
        "CLOUDIFY_EXECUTOR": "bubblewrap",
    }
    ended = subprocess.run(
        [sys.executable, "-m", *module.split()], env={**os.environ, **ENVIRONMENT, **own},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (ended.returncode, "run that version or the one before it" in ended.stderr) == (1, True), ended.stderr


def test_a_process_waits_for_the_migration(postgres_server: PostgresServer) -> None:
    stop, found = threading.Event(), list[bool]()
    with fresh_database(postgres_server, "template0") as url:
        waiting = threading.Thread(target=lambda: found.append(wait_until_migrated(url, stop)))
        waiting.start()
        waiting.join(0.5)
        assert waiting.is_alive()
        migrate(url)
        waiting.join(60)
        assert found == [True]
        stop.set()
        assert not wait_until_migrated(url, stop)


def test_a_history_of_before_the_versions_is_completed(postgres_server: PostgresServer) -> None:
    with fresh_database(postgres_server, "template0") as url:
        migrate(url)
        with psycopg.connect(url) as connection:
            connection.execute("ALTER TABLE schema_migrations DROP COLUMN version")
        assert is_migrated(url)
        check_schema(url)
        assert migrate(url) == []
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT DISTINCT version FROM schema_migrations").fetchall() == [(1,)]
