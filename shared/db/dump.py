"""Dumps a whole database with pg_dump, and restores it with pg_restore.

Both change settings of their session that others would see behind a pooler in transaction mode, so they refuse one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, BinaryIO

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from shared.db.database import Connection
from shared.db.postgres_programs import PostgresProgram, ProgramMissing, find_program

_CONNECT_SECONDS = 10
_CHUNK = 1 << 20
_SHOWN_CHARACTERS = 2000
# Who restores may be another role than who made the dump.
_PORTABLE = ("--no-owner", "--no-privileges")
# Of other roles' sessions, only the database is shown.
_OTHERS = """
SELECT DISTINCT COALESCE(NULLIF(application_name, ''), 'a client without a name') FROM pg_stat_activity
WHERE datname = current_database() AND COALESCE(backend_type, 'client backend') = 'client backend'
  AND pid <> pg_backend_pid()
ORDER BY 1
"""
_RELATIONS = """
SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') ORDER BY 1 LIMIT 3
"""


class DumpError(Exception):
    """The database can't be dumped or restored. The message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Dumped:
    """`digest`: SHA-256 of the dump in hex."""

    digest: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A transaction that sees the database as it was at one moment; `name` gives others the same view."""

    connection: Connection
    name: str
    server_major: int


@contextmanager
def direct_connection(url: str) -> Generator[Connection]:
    """A connection in autocommit mode. Raises DumpError if there is a pooler in between or no answer."""
    try:
        connection = Connection.connect(url, autocommit=True, connect_timeout=_CONNECT_SECONDS, prepare_threshold=None)
    except psycopg.Error as error:
        raise DumpError(f"The database does not answer: {str(error).strip()}") from error
    with connection:
        # A pooler answers with a number of its own at the start.
        if connection.fetch_value(int, "SELECT pg_backend_pid()") != connection.info.backend_pid:
            raise DumpError(
                "A pooler is between this machine and PostgreSQL; name the server itself with --database-url."
            )
        yield connection


@contextmanager
def snapshot(url: str) -> Generator[Snapshot]:
    """Raises DumpError."""
    with direct_connection(url) as connection:
        # The dump of a large database takes hours, in which this transaction only waits.
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            name = connection.fetch_value(str, "SELECT pg_export_snapshot()")
            assert name is not None
            yield Snapshot(connection, name, server_major(connection))


def server_major(connection: Connection) -> int:
    return connection.info.server_version // 10_000


def other_clients(connection: Connection) -> list[str]:
    """The names of the other clients that are connected to this database."""
    return connection.fetch_values(str, _OTHERS)


def relations(connection: Connection) -> list[str]:
    """Some of the database's tables and views; none if it is empty."""
    return connection.fetch_values(str, _RELATIONS)


def empty(connection: Connection, *, keep: str) -> None:
    """Deletes everything in the database but the table `keep`. Raises DumpError."""
    kept = sql.Identifier(keep)
    try:
        with connection.transaction():
            connection.execute("CREATE SCHEMA cloudify_kept")
            connection.execute(sql.SQL("ALTER TABLE public.{} SET SCHEMA cloudify_kept").format(kept))
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
            connection.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
            connection.execute(sql.SQL("ALTER TABLE cloudify_kept.{} SET SCHEMA public").format(kept))
            connection.execute("DROP SCHEMA cloudify_kept")
    except psycopg.errors.InsufficientPrivilege as error:
        raise DumpError(
            "The database's role may not delete what the database holds; make an empty database, and restore there."
        ) from error


def dump(url: str, of: Snapshot, target: IO[bytes]) -> Dumped:
    """Writes the database as the snapshot sees it, compressed. Raises DumpError, OSError."""
    program = _find("pg_dump", of.server_major)
    digest, size = hashlib.sha256(), 0
    arguments = ["--format=custom", f"--snapshot={of.name}", *_PORTABLE]
    with _running(program, url, arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while data := process.stdout.read(_CHUNK):
            digest.update(data)
            size += len(data)
            target.write(data)
    return Dumped(digest.hexdigest(), size)


def restore(url: str, *, server_major: int, dumped_major: int, source: BinaryIO | IO[bytes]) -> None:
    """Puts the dump into an empty database, completely or not at all. Raises DumpError.

    `dumped_major`: the version of the server that the dump is of.
    """
    if server_major < dumped_major:
        raise DumpError(
            f"The backup is of PostgreSQL {dumped_major}, and this server's version is {server_major}; restore it into "
            f"PostgreSQL {dumped_major} or newer."
        )
    program = _find("pg_restore", dumped_major)
    arguments = ["--single-transaction", "--exit-on-error", *_PORTABLE]
    with _running(program, url, arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        try:
            shutil.copyfileobj(source, process.stdin, _CHUNK)
            process.stdin.close()
        except BrokenPipeError:
            # It ended early: its own words say why.
            return


@contextmanager
def _running(
    program: PostgresProgram, url: str, arguments: list[str], *, stdin: int, stdout: int
) -> Generator[subprocess.Popen[bytes]]:
    """The program while it runs. Raises DumpError with its words unless it succeeds."""
    parameters = conninfo_to_dict(url)
    # Other users of the machine see the arguments of programs.
    password = str(parameters.pop("password", None) or "")
    environment = {**os.environ, "LC_ALL": "C", "PGPASSWORD": password, "PGCONNECT_TIMEOUT": str(_CONNECT_SECONDS)}
    conninfo = make_conninfo("", **parameters)
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [program.path, *arguments, "--no-password", f"--dbname={conninfo}"],
            stdin=stdin,
            stdout=stdout,
            stderr=words,
            env=environment,
        )
        try:
            yield process
            code = process.wait()
        finally:
            # After an error of ours, such as a full disk.
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close(pipe)
        if code != 0:
            words.seek(0)
            said = words.read()[-_SHOWN_CHARACTERS:].decode(errors="replace").strip()
            raise DumpError(f"{program.path.name} ended with exit code {code}: {said}")


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        return


def _find(name: str, least_major: int) -> PostgresProgram:
    try:
        return find_program(name, least_major=least_major)
    except ProgramMissing as error:
        raise DumpError(str(error)) from error
