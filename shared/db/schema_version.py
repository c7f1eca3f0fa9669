"""Which databases this code works with, so that two neighbouring versions can run at the same time.

The schema has a version: a number that grows by one with each release of Cloudify that changes the database. The
database records it with each migration, also of migrations that older code doesn't know. Code of version N works with a
database of version N + 1, because a migration only removes what the version before its own has stopped using
(tests/architecture/test_migrations.py). It refuses a database of version N + 2.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog
from psycopg.rows import TupleRow

# The first migration of each version of the schema, from version 1. A release that changes the database adds one.
FIRST_MIGRATIONS = ("0001",)
SCHEMA_VERSION = len(FIRST_MIGRATIONS)

# Exists while a backup is restored: the database isn't complete before.
RESTORING = "restore_in_progress"
_IS_RESTORING = "SELECT 1 WHERE to_regclass('public.restore_in_progress') IS NOT NULL"
_HAS_HISTORY = "SELECT 1 WHERE to_regclass('schema_migrations') IS NOT NULL"
# The column is missing in databases that no version with this module has migrated.
_HISTORY = "SELECT name, COALESCE((to_jsonb(m) ->> 'version')::int, 1) FROM schema_migrations m"
_CONNECT_SECONDS = 2
_WAIT_SECONDS = 1.0
_TELL_AFTER = 10

_log: Any = structlog.get_logger(__name__)


class MigrationError(Exception):
    """The database doesn't fit this version of the code. The message says what to do."""


@dataclass(frozen=True, slots=True)
class SchemaState:
    """What a database has. `versions`: the name of each applied migration → its version of the schema."""

    versions: dict[str, int]
    is_restoring: bool

    @property
    def is_too_new(self) -> bool:
        return max(self.versions.values(), default=0) > SCHEMA_VERSION + 1

    def unknown(self, known: set[str]) -> list[str]:
        """The migrations that a newer version has applied."""
        return sorted(self.versions.keys() - known)

    def missing(self, known: set[str]) -> list[str]:
        return sorted(known - self.versions.keys())

    def check(self) -> None:
        """Raises MigrationError if this code must not touch the database."""
        if self.is_too_new:
            raise MigrationError(
                f"The database is of a version of Cloudify that is more than one newer than this one (it has "
                f"{max(self.versions)}); run that version or the one before it."
            )


def version_of(migration: str) -> int:
    """The version of the schema that a migration belongs to."""
    return sum(migration >= first for first in FIRST_MIGRATIONS)


def examine(connection: psycopg.Connection[TupleRow]) -> SchemaState:
    restoring = is_restoring(connection)
    if connection.execute(_HAS_HISTORY).fetchone() is None:
        return SchemaState({}, restoring)
    return SchemaState(dict(connection.execute(_HISTORY).fetchall()), restoring)


def is_restoring(connection: psycopg.Connection[TupleRow]) -> bool:
    """Whether the restore of a backup has begun and not ended."""
    return connection.execute(_IS_RESTORING).fetchone() is not None


def check_schema(database_url: str) -> None:
    """For processes that start while the database is away or empty. Raises MigrationError if it is too new."""
    try:
        state = _ask(database_url)
    except psycopg.Error as error:
        _log.warning("schema.unknown", error=str(error).strip())
        return
    state.check()


def wait_for_schema(database_url: str, known: set[str], stop: threading.Event) -> bool:
    """Waits until the database has the `known` migrations. False if `stop` is set before.

    Raises MigrationError if it is too new.
    """
    looks = 0
    while not stop.is_set():
        problem = _problem(database_url, known)
        if problem is None:
            return True
        if looks % _TELL_AFTER == 0:
            _log.warning("schema.waiting", problem=problem)
        looks += 1
        stop.wait(_WAIT_SECONDS)
    return False


def _problem(database_url: str, known: set[str]) -> str | None:
    """Why a process can't start yet."""
    try:
        state = _ask(database_url)
    except psycopg.Error as error:
        return f"The database does not answer: {str(error).strip()}"
    state.check()
    if state.is_restoring:
        return "A backup is being restored."
    missing = state.missing(known)
    return f"The database lacks {missing[0]}; run `cloudify migrate`." if missing else None


def _ask(database_url: str) -> SchemaState:
    with psycopg.connect(
        database_url, autocommit=True, connect_timeout=_CONNECT_SECONDS, prepare_threshold=None
    ) as connection:
        return examine(connection)
