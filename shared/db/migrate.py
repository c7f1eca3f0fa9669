"""Applies the forward-only SQL migrations in order, once each, under an advisory lock."""

from __future__ import annotations

import hashlib
import threading
import time
from importlib import resources

import psycopg
from psycopg.rows import TupleRow

from shared.db import schema_version
from shared.db.schema_version import MigrationError, SchemaState, examine, is_restoring, version_of

# An arbitrary number that no other lock has.
_LOCK = 0x636C6F7564696679
_LOCK_SECONDS = 0.2

_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
  name text PRIMARY KEY,
  checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now(),
  version integer NOT NULL DEFAULT 1
)
"""
_HAS_VERSION = """
SELECT 1 FROM pg_attribute
WHERE attrelid = 'schema_migrations'::regclass AND attname = 'version' AND NOT attisdropped
"""


class DatabaseAway(MigrationError):
    """The database could not be reached, or it broke the work off."""


def migrations() -> list[tuple[str, str]]:
    """Returns the name and SQL of each migration, in order."""
    folder = resources.files("shared.db") / "migrations"
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(name, (folder / name).read_text()) for name in files]


def migrate(database_url: str, *, in_restore: bool = False) -> list[str]:
    """Migrates the database to this version and returns the names of the applied migrations. Safe to run concurrently.

    A database that the next version has migrated stays as it is. `in_restore`: a part of a restore, between
    `begin_restoring` and `end_restoring`. Raises MigrationError, DatabaseAway if a retry may succeed.
    """
    try:
        return _migrate(database_url, in_restore=in_restore)
    except psycopg.OperationalError as error:
        raise DatabaseAway(f"The database can't be migrated at the moment: {str(error).strip()}") from error
    except psycopg.Error as error:
        raise MigrationError(f"The database can't be migrated: {str(error).strip()}") from error


def _migrate(database_url: str, *, in_restore: bool) -> list[str]:
    known = migrations()
    applied: list[str] = []
    # Another connection's transaction has the lock, and nothing is prepared: a pooler in transaction mode gives
    # each transaction another session.
    with (
        psycopg.connect(database_url) as guard,
        psycopg.connect(database_url, autocommit=True, prepare_threshold=None) as connection,
    ):
        _wait_for_lock(guard)
        if not in_restore:
            check_not_restoring(connection)
        connection.execute(_HISTORY)
        if connection.execute(_HAS_VERSION).fetchone() is None:
            connection.execute("ALTER TABLE schema_migrations ADD COLUMN version integer NOT NULL DEFAULT 1")
        _check_history(examine(connection), [name for name, _ in known])
        history = dict(connection.execute("SELECT name, checksum FROM schema_migrations").fetchall())
        for name, sql in known:
            checksum = hashlib.sha256(sql.encode()).hexdigest()
            if name in history:
                if history[name] != checksum:
                    raise MigrationError(
                        f"Migration {name} was changed after it was applied; restore the original file."
                    )
                continue
            with connection.transaction():
                connection.execute(sql.encode())
                connection.execute(
                    "INSERT INTO schema_migrations (name, checksum, version) VALUES (%s, %s, %s)",
                    (name, checksum, version_of(name)),
                )
            applied.append(name)
    return applied


def _wait_for_lock(guard: psycopg.Connection[TupleRow]) -> None:
    """Takes the lock for the transaction. Those that wait hold no session of a pooler, which the holder may need."""
    while guard.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone() != (True,):
        guard.rollback()
        time.sleep(_LOCK_SECONDS)


def _check_history(state: SchemaState, known: list[str]) -> None:
    """Raises MigrationError for a database that this version can't migrate."""
    state.check()
    names = set(known)
    unknown, missing = state.unknown(names), state.missing(names)
    if unknown and missing:
        raise MigrationError(
            f"The database has {unknown[-1]}, which this version of Cloudify doesn't know, and lacks {missing[0]}; "
            "install the version that migrated it last."
        )


def is_migrated(database_url: str) -> bool:
    """Whether every migration of this version has been applied. Also False if the database has no history yet, is too
    new, or is being restored."""
    with psycopg.connect(database_url, autocommit=True, connect_timeout=2, prepare_threshold=None) as connection:
        state = examine(connection)
    return not (state.is_restoring or state.is_too_new or state.missing({name for name, _ in migrations()}))


def wait_until_migrated(database_url: str, stop: threading.Event) -> bool:
    """Waits until the database is ready for this version. False if `stop` is set before. Raises MigrationError."""
    return schema_version.wait_for_schema(database_url, {name for name, _ in migrations()}, stop)


def begin_restoring(connection: psycopg.Connection[TupleRow]) -> None:
    """From here to `end_restoring` the database doesn't count as migrated, whatever it holds."""
    connection.execute("CREATE TABLE IF NOT EXISTS public.restore_in_progress (began_at timestamptz DEFAULT now())")


def end_restoring(connection: psycopg.Connection[TupleRow]) -> None:
    connection.execute("DROP TABLE public.restore_in_progress")


def check_not_restoring(connection: psycopg.Connection[TupleRow]) -> None:
    """Raises MigrationError."""
    if is_restoring(connection):
        raise MigrationError(
            "A restore into this database has not finished; wait for it, or repeat `cloudify admin restore FILE`."
        )
