"""Migrations of databases that have rows, and while the previous version is running."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from shared.accounts.session_repository import SessionRepository
from shared.db.database import Database
from shared.db.migrate import is_migrated, migrate, migrations
from shared.stack.postgres import PostgresServer
from tests.support.databases import fresh_database

pytestmark = pytest.mark.integration

NOW = datetime.now(UTC)
HISTORY = "CREATE TABLE schema_migrations (name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz)"
USER = "INSERT INTO users (id, email, password_hash, is_platform_administrator) VALUES (%s, %s, 'x', %s)"
TENANT = "INSERT INTO tenants (id, name, plan, personal_user_id) VALUES (%s, 'x', %s, %s)"
# As the version before 0010 writes it.
SESSION = """
INSERT INTO sessions (id, family_id, user_id, refresh_token_hash, expires_at)
VALUES (%(id)s, %(family)s, 'user_1', sha256(%(id)s::text::bytea), now() + interval '1 day')
"""
END_FAMILY = "UPDATE sessions SET revoked_at = now() WHERE family_id = %s AND revoked_at IS NULL"
LIVES = "SELECT EXISTS (SELECT 1 FROM sessions WHERE family_id = %s AND revoked_at IS NULL AND expires_at > now())"


class Old:
    """A database as the migrations before `first` leave it, with a connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.connection = psycopg.connect(url, autocommit=True)

    def migrate_before(self, first: str) -> None:
        self.connection.execute(HISTORY)
        for name, sql in migrations():
            if name < first:
                self.connection.execute(sql.encode())
                values = (name, hashlib.sha256(sql.encode()).hexdigest())
                self.connection.execute("INSERT INTO schema_migrations (name, checksum) VALUES (%s, %s)", values)

    def execute(self, statement: str, *values: Any) -> Any:
        return self.connection.execute(statement.encode(), values)

    def add_session(self, name: str, family: str) -> None:
        self.connection.execute(SESSION, {"id": name, "family": family})

    def is_live_before(self, family: str) -> bool:
        """To a process of the version before."""
        return self.execute(LIVES, family).fetchone()[0]

    def is_live(self, family: str) -> bool:
        with closing(Database(self.url)) as database:
            row = SessionRepository(database).find_user("user_1", family, NOW)
        assert row is not None
        return row.is_live


@pytest.fixture
def old(postgres_server: PostgresServer) -> Iterator[Old]:
    with fresh_database(postgres_server, "template0") as url:
        old = Old(url)
        yield old
        old.connection.close()


def test_sessions_of_before_are_logins(old: Old) -> None:
    old.migrate_before("0010")
    old.execute(USER, "user_1", "ada@example.com", False)
    for name, family in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b")):
        old.add_session(name, family)
    old.execute("UPDATE sessions SET replaced_at = now() WHERE id = 'a1'")
    old.execute("UPDATE sessions SET revoked_at = now() WHERE id = 'b1'")
    migrate(old.url)
    assert is_migrated(old.url)
    assert [old.is_live("a"), old.is_live("b")] == [True, False]


def test_a_process_of_the_previous_version_signs_in_and_out_at_the_same_time(old: Old) -> None:
    old.migrate_before("0010")
    old.execute(USER, "user_1", "ada@example.com", False)
    old.add_session("a1", "a")
    migrate(old.url)
    for name, family in (("b1", "b"), ("a2", "a"), ("c1", "c")):
        old.add_session(name, family)
    assert [old.is_live(family) for family in "abc"] == [True] * 3
    old.execute(END_FAMILY, "b")
    with closing(Database(old.url)) as database, database.transaction() as connection:
        assert SessionRepository(database).revoke(connection, "c", "user_1", NOW)
    # A refresh of the version before that began while the login was revoked.
    old.add_session("c2", "c")
    for sees in (old.is_live, old.is_live_before):
        assert [sees(family) for family in "abc"] == [True, False, False]


@pytest.mark.parametrize(
    ("email", "is_administrator", "before", "after"),
    [
        ("owner@localhost", True, "FREE", "ENTERPRISE"),
        ("owner@localhost", True, "TEAM", "TEAM"),
        ("owner@localhost", False, "FREE", "FREE"),
        ("root@example.com", True, "FREE", "FREE"),
    ],
)
def test_the_first_runs_owner_of_before_gets_the_largest_plan_once(
    old: Old, email: str, is_administrator: bool, before: str, after: str
) -> None:
    old.migrate_before("0012")
    old.execute(USER, "user_1", email, is_administrator)
    old.execute(TENANT, "tenant_1", before, "user_1")
    migrate(old.url)
    assert old.execute("SELECT plan FROM tenants").fetchone() == (after,)
    old.execute("UPDATE tenants SET plan = 'FREE'")
    migrate(old.url)
    assert old.execute("SELECT plan FROM tenants").fetchone() == ("FREE",)
