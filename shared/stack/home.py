"""The folder with all data of a platform on one machine: its lock, its version and its secrets."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from shared.private_files import close_home, keep_files_private
from shared.stack.errors import StackError
from shared.stack.platform_keys import PlatformKeys
from shared.stack.ports import free_ports, is_free
from shared.stack.postgres import MAJOR_VERSION

LAYOUT_VERSION = 1
_LEAST_FREE_BYTES = 500 * 1024 * 1024
_LOCK_SECONDS = 2.0
_RESERVE_BYTES = 100 * 1024 * 1024
_RESTORE = "restore it, or set CLOUDIFY_HOME to another folder."
_INTERNAL_PORTS = (
    "postgres", "valkey", "s3", "s3_grpc", "master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc",
    "router",
)  # fmt: skip


class Home:
    """`directory` is CLOUDIFY_HOME. Nothing is changed before `lock`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run_directory = directory / "run"
        self.logs_directory = directory / "logs"
        self.metrics_directory = self.run_directory / "metrics"
        self.credentials_path = directory / "credentials.json"
        self.environment_path = self.run_directory / "environment.json"
        self._lock: int | None = None

    def log_path(self, role: str) -> Path:
        """The log of a server or process."""
        return self.logs_directory / f"{role}.log"

    def lock(self) -> None:
        """Locks the folder until this process ends. From then on files are only readable by their owner.

        Raises StackError if another process holds the lock or the folder can't be used.
        """
        try:
            keep_files_private(self.directory)
            self.directory.mkdir(parents=True, exist_ok=True)
            self.run_directory.mkdir(exist_ok=True)
            self.logs_directory.mkdir(exist_ok=True)
            self._lock = os.open(self.run_directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise StackError(_full(self.directory)) from error
            raise StackError(f"CLOUDIFY_HOME can't be used: {error}.") from error
        try:
            _lock_within(self._lock, _LOCK_SECONDS)
        except BlockingIOError as error:
            raise StackError(
                f"Another `cloudify up` is using {self.directory}; stop it, or set CLOUDIFY_HOME to another folder."
            ) from error
        close_home(self.directory)

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check_version(self) -> None:
        """Marks a new folder with this version. Raises StackError for a folder of another version."""
        path = self.directory / "version.json"
        mine = {"layout": LAYOUT_VERSION, "postgres": MAJOR_VERSION}
        found = read_private(path)
        if found is None:
            write_private(path, mine)
        elif found != mine:
            raise StackError(
                f"{self.directory} was made by another version of Cloudify (it is {_describe(found)}, this one is "
                f"{_describe(mine)}); start that version, or set CLOUDIFY_HOME to another folder."
            )

    def is_nearly_full(self, least_free_bytes: int = _RESERVE_BYTES) -> bool:
        """Whether running processes will soon run out of space."""
        return shutil.disk_usage(self.directory).free < least_free_bytes

    def check_space(self, least_free_bytes: int = _LEAST_FREE_BYTES) -> None:
        if shutil.disk_usage(self.directory).free < least_free_bytes:
            raise StackError(_full(self.directory))

    def secrets(self) -> dict[str, str]:
        """The secrets, generated on the first run and then kept."""
        path = self.directory / "secrets.json"
        found = read_private(path)
        keys = PlatformKeys.generate()
        fresh = {
            "secretKey": keys.secret_key,
            "encryptionKeys": keys.encryption_keys,
            "databasePassword": secrets.token_hex(24),
            "redisPassword": secrets.token_hex(24),
            "s3AccessKey": secrets.token_hex(10),
            "s3SecretKey": secrets.token_hex(24),
        }
        if found is None:
            # The database was created with the lost secrets; it can't be opened with others.
            if (self.directory / "postgres" / "data").exists():
                raise StackError(f"{path} is missing, and the data can't be used without it; {_RESTORE}")
            write_private(path, fresh)
            return fresh
        if not isinstance(found, dict) or not all(found.get(name) and isinstance(found[name], str) for name in fresh):
            raise StackError(f"{path} is incomplete; {_RESTORE}")
        return found

    def internal_ports(self) -> dict[str, int]:
        """The ports of the stores, kept between runs. A port that another program has taken is replaced."""
        path = self.run_directory / "ports.json"
        kept = _read_ports(path)
        fresh = iter(free_ports(len(_INTERNAL_PORTS)))
        ports = {name: kept[name] if name in kept and is_free(kept[name]) else next(fresh) for name in _INTERNAL_PORTS}
        write_private(path, ports)
        return ports

    def forget_metrics(self, pid: int) -> None:
        """Deletes the gauges of a process that has ended, and keeps its counters.

        The same as prometheus_client's mark_process_dead, without the memory that importing the client takes.
        """
        for file in self.metrics_directory.glob(f"gauge_live*_{pid}.db"):
            file.unlink(missing_ok=True)

    def empty_metrics(self) -> None:
        """Deletes the counters of former processes."""
        shutil.rmtree(self.metrics_directory, ignore_errors=True)
        self.metrics_directory.mkdir(parents=True)


def _lock_within(descriptor: int, seconds: float) -> None:
    """Waits, because a process that was just killed may still hold the lock. Raises BlockingIOError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.02)


def write_private(path: Path, content: Any) -> None:
    """Writes JSON that only the owner can read, and replaces the file atomically."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_private(path: Path) -> Any:
    """Returns None if the file doesn't exist. Raises StackError if it can't be read."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StackError(f"{path} can't be read ({error}); {_RESTORE}") from error


def _read_ports(path: Path) -> dict[str, int]:
    """Returns no ports if the file is missing or damaged, because any others will do."""
    try:
        found: Any = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: port for name, port in found.items() if isinstance(port, int) and 0 < port < 65536}


def _describe(version: Any) -> str:
    if not isinstance(version, dict):
        return "unknown"
    return ", ".join(f"{name} {value}" for name, value in version.items())


def _full(directory: Path) -> str:
    return f"The disk of {directory} is full (less than 500 MB are free); free some space and start again."
