"""PgBouncer in transaction mode in front of a PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from tests.support.log_rows import eventually
from tests.support.ports import free_ports

# .ci/run unpacks it there.
_UNPACKED = Path(__file__).parents[2] / ".venv" / "pgbouncer"


def find_pgbouncer() -> Path | None:
    for found in (os.environ.get("CLOUDIFY_TEST_PGBOUNCER"), shutil.which("pgbouncer")):
        if found:
            return Path(found)
    unpacked = _UNPACKED / "usr" / "sbin" / "pgbouncer"
    return unpacked if unpacked.exists() else None


@contextmanager
def pooled(program: Path, database_url: str, *, connections: int) -> Iterator[str]:
    """The URL of the same database through PgBouncer, which holds at most so many connections to the server."""
    target = urlsplit(database_url)
    [port] = free_ports(1)
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        database = target.path.removeprefix("/")
        (directory / "users").write_text(f'"{target.username}" "{target.password}"\n')
        (directory / "settings").write_text(
            f"""[databases]
{database} = host={target.hostname} port={target.port} dbname={database}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {directory / "users"}
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 200
"""
        )
        # It refuses to run as root.
        as_nobody = ["-u", "nobody"] if os.getuid() == 0 else []
        libraries = program.parents[2] / "usr" / "lib" / "x86_64-linux-gnu"
        process = subprocess.Popen(
            [str(program), "-q", *as_nobody, str(directory / "settings")],
            env={**os.environ, "LD_LIBRARY_PATH": str(libraries)},
        )
        try:
            url = target._replace(netloc=f"{target.username}:{target.password}@127.0.0.1:{port}").geturl()
            eventually(lambda: _answers(url), 60)
            yield url
        finally:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
