"""Applies the forward-only SQL migrations in order, once each, under an advisory lock."""

from __future__ import annotations

import hashlib
import time
from importlib import resources

import psycopg
from psycopg.rows import TupleRow

# An arbitrary number that no other lock has.
_LOCK = 0x636C6F7564696679
_LOCK_SECONDS = 0.2

_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
  name text PRIMARY KEY,
  checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
)
"""


# Exists while a backup is restored: the database isn't complete before.
RESTORING = "restore_in_progress"
_IS_RESTORING = "SELECT 1 WHERE to_regclass('public.restore_in_progress') IS NOT NULL"


class MigrationError(Exception):
    """The database doesn't fit this version of the code. The message says what to do."""


def migrations() -> list[tuple[str, str]]:
    """Returns the name and SQL of each migration, in order."""
    folder = resources.files("shared.db") / "migrations"
    files = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(name, (folder / name).read_text()) for name in files]


def migrate(database_url: str, *, is_restoring: bool = False) -> list[str]:
    """Migrates the database to this version and returns the names of the applied migrations. Safe to run concurrently.

    `is_restoring`: a part of a restore, between `begin_restoring` and `end_restoring`. Raises MigrationError.
    """
    try:
        return _migrate(database_url, is_restoring=is_restoring)
    except psycopg.Error as error:
        raise MigrationError(f"The database can't be migrated: {str(error).strip()}") from error


def _migrate(database_url: str, *, is_restoring: bool) -> list[str]:
    known = migrations()
    applied: list[str] = []
    # Another connection's transaction has the lock, and nothing is prepared: a pooler in transaction mode gives
    # each transaction another session.
    with (
        psycopg.connect(database_url) as guard,
        psycopg.connect(database_url, autocommit=True, prepare_threshold=None) as connection,
    ):
        _wait_for_lock(guard)
        if not is_restoring:
            check_not_restoring(connection)
        connection.execute(_HISTORY)
        history = dict(connection.execute("SELECT name, checksum FROM schema_migrations").fetchall())
        unknown = sorted(set(history) - {name for name, _ in known})
        if unknown:
            raise MigrationError(
                f"The database was migrated by a newer version of Cloudify (it has {unknown[-1]}); "
                "install that version or restore a backup."
            )
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
                connection.execute("INSERT INTO schema_migrations (name, checksum) VALUES (%s, %s)", (name, checksum))
            applied.append(name)
    return applied


def _wait_for_lock(guard: psycopg.Connection[TupleRow]) -> None:
    """Takes the lock for the transaction. Those that wait hold no session of a pooler, which the holder may need."""
    while guard.execute("SELECT pg_try_advisory_xact_lock(%s)", (_LOCK,)).fetchone() != (True,):
        guard.rollback()
        time.sleep(_LOCK_SECONDS)


def is_migrated(database_url: str) -> bool:
    """Whether every migration of this version has been applied. Also False if the database has no history yet."""
    with psycopg.connect(database_url, autocommit=True, connect_timeout=2) as connection:
        row = connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
        if row is None or not row[0] or is_restoring(connection):
            return False
        history = {name for (name,) in connection.execute("SELECT name FROM schema_migrations").fetchall()}
    return history >= {name for name, _ in migrations()}


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


def is_restoring(connection: psycopg.Connection[TupleRow]) -> bool:
    """Whether a restore has begun and not ended."""
    return connection.execute(_IS_RESTORING).fetchone() is not None
