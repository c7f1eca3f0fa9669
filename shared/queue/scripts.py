"""Runs the queue's Lua scripts by their digest, and loads a script that Redis doesn't have."""

from __future__ import annotations

import hashlib
import time
from importlib import resources
from typing import Any

from redis import Redis
from redis.exceptions import (
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from shared.metrics import CommandTimes
from shared.queue.connection import Commands
from shared.queue.errors import QueueUnavailable

ROOT = "{cloudify}:"
# TimeoutError is not a ConnectionError in redis-py; BusyLoadingError and MasterDownError are told below.
UNREACHABLE: tuple[type[RedisError], ...] = (
    RedisConnectionError,
    RedisTimeoutError,
    ReadOnlyError,
    OutOfMemoryError,
    ClusterDownError,
    TryAgainError,
)
# Temporary errors for which redis-py has no class.
_PASSING = ("MISCONF", "BUSY", "NOREPLICAS")


class Scripts:
    """`clock_key`, for tests: a key that holds the time in milliseconds, used in place of Redis's clock."""

    def __init__(self, redis: Redis, *, clock_key: str | None = None) -> None:
        clock = "false" if clock_key is None else f"'{clock_key}'"
        folder = resources.files("shared.queue") / "lua"
        texts = {entry.name: entry.read_text() for entry in folder.iterdir() if entry.name.endswith(".lua")}
        prelude = f"local clock_key = {clock}\n{texts.pop('prelude.lua')}"
        jobs = texts.pop("jobs.lua")
        self._sources = {
            name.removesuffix(".lua"): "\n".join([prelude, *([jobs] if "\n-- With jobs.lua\n" in text else []), text])
            for name, text in texts.items()
        }
        self._commands = Commands(redis)
        self._times = CommandTimes()
        # The digest only names a script; it isn't for security.
        self._digests = {
            name: hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
            for name, source in self._sources.items()
        }

    def run(self, name: str, *arguments: str | bytes | float) -> Any:
        """Raises QueueUnavailable if Redis can't be reached; the script may or may not have run then."""
        started = time.perf_counter()
        try:
            try:
                return self._commands.run("EVALSHA", self._digests[name], 1, ROOT, *arguments)
            except NoScriptError:
                return self._commands.run("EVAL", self._sources[name], 1, ROOT, *arguments)
        except UNREACHABLE as error:
            raise _unavailable(error) from error
        except ResponseError as error:
            if str(error).startswith(_PASSING):
                raise _unavailable(error) from error
            raise
        finally:
            self._times.observe(name, time.perf_counter() - started)

    def server_time(self) -> tuple[int, int]:
        """Redis's TIME: seconds and microseconds. Raises QueueUnavailable."""
        seconds, microseconds = self._run("TIME")
        return int(seconds), int(microseconds)

    def server_info(self) -> dict[str, str]:
        """Redis's INFO by names. Raises QueueUnavailable."""
        lines = self._run("INFO").decode(errors="replace").splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def _run(self, command: str) -> Any:
        try:
            return self._commands.run(command)
        except UNREACHABLE as error:
            raise _unavailable(error) from error


def _unavailable(error: RedisError) -> QueueUnavailable:
    return QueueUnavailable(f"The queue can't be reached ({type(error).__name__}); try again in a few seconds.")
