"""What capturing a build's output costs: a real command in the real sandbox, its lines masked and stored in PostgreSQL.

`python -m tests.bench log-capture [--rounds 3] [--paced-lines 50000] [--fast-lines 500000]`. Each round runs every way
once, so that what else the machine does hits all of them; figures are medians. "discarded" is the same executor with a
callback that drops everything; "by hand" is the command alone with its output in /dev/null. The worker's CPU seconds
are those of this process, which does what a worker does and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from shared.db.database import Database
from shared.db.migrate import migrate
from shared.logs.capture.writer import LogWriter
from shared.logs.masking.redaction import Redactor
from shared.logs.notifier import RedisNotifier
from shared.logs.store import PostgresLogStore
from shared.settings import NetworkSettings
from shared.stack.ports import free_ports
from shared.stack.postgres import PostgresServer
from shared.stack.valkey import ValkeyServer
from tests.support.log_rows import new_deployment
from workers.executors.attachments import DirectoryTrees
from workers.executors.base import ExecutionSpec, Limits, OnOutput, RunOutcome
from workers.executors.bubblewrap.executor import BubblewrapExecutor
from workers.executors.cgroups import discover_control_groups
from workers.executors.toolchain import Toolchain

MEBIBYTE = 1024 * 1024
WAYS = ("captured", "discarded", "by hand")

# One write(2) a line, as console.log does on a pipe, with a fixed amount of hashing before each.
PACED = """
import hashlib, os, sys
lines, rounds = int(sys.argv[1]), int(sys.argv[2])
block, digest = b"x" * 1024, b""
for number in range(lines):
    for _ in range(rounds):
        digest = hashlib.sha256(block + digest).digest()
    line = f"[{number:06d}] transforming src/components/{digest[:6].hex()}.tsx ({number} modules) in 12ms\\n"
    os.write(1, line.encode())
"""
# In blocks, as a program with buffered output prints.
FAST = """
import sys
for number in range(int(sys.argv[1])):
    sys.stdout.write(f"[{number:06d}] transforming src/components/{number * 7919:x}.tsx (3 modules) in 12ms\\n")
"""
ONE_LINE = f"head -c {100 * MEBIBYTE} /dev/zero | tr '\\\\0' x"


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `worker`: CPU seconds of this process meanwhile; `grown`: bytes by which its peak resident set grew."""

    seconds: float
    worker: float
    grown: int


class Bench:
    def __init__(self, directory: Path, database: Database, redis_url: str) -> None:
        self._database = database
        self._toolchain = Toolchain.discover()
        self._executor = BubblewrapExecutor(
            NetworkSettings(),
            directory / "run",
            self._toolchain,
            host_environment=dict(os.environ),
            control_groups=discover_control_groups(),
        )
        self._trees = DirectoryTrees(directory)
        self._store = PostgresLogStore(database)
        self._notifier = RedisNotifier.connect(redis_url)
        self._secrets = realistic_secrets()
        self._count = 0

    def run(self, way: str, script: str, *arguments: str) -> Run:
        """`script` is Python when it has arguments, else a shell's."""
        words = ("-c", script, *arguments)
        inside = (self._toolchain.python, "-I", "-S", *words) if arguments else ("sh", *words)
        outside = (sys.executable, "-I", "-S", *words) if arguments else ("sh", *words)
        if way == "by hand":
            return measured(lambda: subprocess.run(outside, stdout=subprocess.DEVNULL, check=True))
        if way == "discarded":
            return measured(lambda: self._execute(inside, lambda _stream, _data: None))
        return measured(lambda: self._captured(inside))

    def stored_lines(self) -> int:
        """Of the last captured run."""
        return self._store.head(self._deployment).last_seq

    def _captured(self, command: tuple[str, ...]) -> None:
        self._deployment = new_deployment(self._database)
        redactor = Redactor(self._secrets)
        with LogWriter(self._store, self._database, self._notifier, self._deployment, "build", 1, redactor) as writer:

            def on_output(stream: Literal["stdout", "stderr"], data: bytes) -> None:
                writer.write(stream, data)

            self._execute(command, on_output)

    def _execute(self, command: tuple[str, ...], on_output: OnOutput) -> None:
        self._count += 1
        limits = Limits(
            memory_bytes=1024 * MEBIBYTE,
            cpu_count=2.0,
            process_count=64,
            disk_bytes=64 * MEBIBYTE,
            output_bytes=1024 * MEBIBYTE,
            wall_seconds=600,
        )
        environment = {"PATH": self._toolchain.path}
        name = f"bench-{os.getpid()}-{self._count}"
        spec = ExecutionSpec(name, command, "/", (), None, environment, limits, network="none")
        result = self._executor.run(spec, self._trees, on_output, threading.Event())
        assert result.outcome is RunOutcome.SUCCESS, result.message


def realistic_secrets() -> list[str]:
    """Thirty: tokens, passwords, URLs with passwords, a private key, and the plain values variables tend to have."""
    tokens = [f"sk_live_{secrets.token_urlsafe(24)}" for _ in range(8)] + [secrets.token_hex(20) for _ in range(8)]
    passwords = [f"p@{secrets.token_urlsafe(9)}/+!" for _ in range(5)]
    urls = [f"postgres://app:{secrets.token_hex(12)}@db{n}.internal:5432/app" for n in range(4)]
    key = "\n".join(["-----BEGIN KEY-----", *(secrets.token_urlsafe(48) for _ in range(20)), "-----END KEY-----"])
    return [*tokens, *passwords, *urls, key, "8080", "abc", "https://api.example.org", "eu-central-1"]


def measured(action: Callable[[], object]) -> Run:
    """The time the action takes, and what it costs this process."""
    peak, before, started = _peak_resident(), _cpu_seconds(), time.perf_counter()
    action()
    return Run(time.perf_counter() - started, _cpu_seconds() - before, _peak_resident() - peak)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(bench: Bench, title: str, lines: int, rounds: int, script: str, *arguments: str) -> None:
    runs: dict[str, list[Run]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            runs[way].append(bench.run(way, script, *arguments))
        assert bench.stored_lines() == lines
    seconds = {way: statistics.median(run.seconds for run in runs[way]) for way in WAYS}
    # Of each round, as what slows a whole round slows both.
    costs = [
        captured.seconds / discarded.seconds - 1
        for captured, discarded in zip(runs["captured"], runs["discarded"], strict=True)
    ]
    print(f"{title} ({lines} lines, medians of {rounds} rounds)")
    for way in WAYS:
        worker = statistics.median(run.worker for run in runs[way])
        cpu = "" if way == "by hand" else f"  worker {worker:6.2f} CPU s"
        print(f"  {way:<10} {seconds[way]:7.2f} s  {lines / seconds[way]:9.0f} lines/s{cpu}")
    print(f"  cost of capture: {statistics.median(costs):+.1%} of the wall time", flush=True)


def rounds_for(bench: Bench, lines: int, per_second: int) -> int:
    """How much hashing before each line makes the command print about so many lines a second by hand."""
    count = 400
    many = bench.run("by hand", PACED, str(lines // 10), str(count)).seconds
    none = bench.run("by hand", PACED, str(lines // 10), "0").seconds
    return max(1, round((lines / 10 / per_second - none) / (many - none) * count))


def long_line(bench: Bench, title: str, script: str) -> None:
    discarded, captured = bench.run("discarded", script), bench.run("captured", script)
    print(
        f"{title}: captured {captured.seconds:.2f} s, discarded {discarded.seconds:.2f} s,"
        f" worker {captured.worker:.2f} CPU s, peak memory +{captured.grown / MEBIBYTE:.0f} MiB,"
        f" {bench.stored_lines()} lines stored",
        flush=True,
    )


@contextlib.contextmanager
def servers(directory: Path) -> Generator[tuple[PostgresServer, ValkeyServer]]:
    postgres_port, redis_port = free_ports(2)
    postgres = PostgresServer(directory / "postgres", port=postgres_port, password="b" * 32, is_durable=True)
    valkey = ValkeyServer(directory / "valkey", port=redis_port, password="b" * 32, is_durable=False)
    with contextlib.ExitStack() as stack:
        for server in (postgres, valkey):
            server.directory.mkdir(parents=True, exist_ok=True)
            stack.callback(server.stop)
            server.start()
            server.wait()
        migrate(postgres.url)
        yield postgres, valkey


@contextlib.contextmanager
def server_time(name: str) -> Generator[None]:
    """Prints the CPU seconds that the server's processes used meanwhile."""

    def used() -> float:
        total = 0.0
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if name in process.name():
                    times = process.cpu_times()
                    total += times.user + times.system + times.children_user + times.children_system
        return total

    before = used()
    yield
    print(f"  {name}: {used() - before:.2f} CPU s")


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.bench log-capture")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--paced-lines", type=int, default=50_000, help="at about 5 000 a second")
    parser.add_argument("--fast-lines", type=int, default=500_000)
    options, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="cloudify-bench-") as name, servers(Path(name)) as (postgres, valkey):
        database = Database(postgres.url)
        bench = Bench(Path(name), database, valkey.url)
        long_line(bench, "100 MiB in one line", f"{ONE_LINE}; echo")
        long_line(bench, "100 MiB without a newline", ONE_LINE)
        hashing = str(rounds_for(bench, options.paced_lines, 5000))
        paced, fast = options.paced_lines, options.fast_lines
        with server_time("postgres"):
            compare(bench, "5 000 lines/s, each after work", paced, options.rounds, PACED, str(paced), hashing)
        with server_time("postgres"):
            compare(bench, "as fast as it can", fast, options.rounds, FAST, str(fast))
        database.close()


if __name__ == "__main__":
    main()
