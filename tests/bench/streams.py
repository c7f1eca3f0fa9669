"""Live logs: written → received, what a stream costs, and how fast a long log is replayed.

`python -m tests.bench streams [--quick] [--only NAME]`. One API process, one process with all clients, one that writes
logs as workers do, on a PostgreSQL and a Valkey of their own. A line waits up to 100 ms for the batch that stores it
(shared/logs/README.md), which is the better part of the latencies.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from schemas.logs import LogEnd, LogLine
from shared.db.database import Database
from shared.db.migrate import migrate
from shared.identifiers import new_identifier
from shared.logs.store import PostgresLogStore
from shared.stack.ports import free_ports
from shared.stack.postgres import PostgresServer
from shared.stack.valkey import ValkeyServer

STREAMS_PER_USER = 10_000


def line(name: str, *figures: str) -> None:
    print(f"{name:<46}" + "".join(f"{figure:>22}" for figure in figures), flush=True)


class Helper:
    """A process of the benchmark that answers JSON lines with JSON lines."""

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", module], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def begin(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, **command: Any) -> dict[str, Any]:
        self.begin(**command)
        return self.answer()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@dataclass
class Bench:
    environment: dict[str, str]
    database: Database
    api: psutil.Process
    port: int
    token: str
    tenant_id: str

    def deployments(self, count: int) -> list[str]:
        project = new_identifier("proj")
        identifiers = [new_identifier("depl") for _ in range(count)]
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT INTO projects (id, tenant_id, name, slug) VALUES (%s, %s, 'Bench', %s)",
                (project, self.tenant_id, f"bench-{project[-12:]}"),
            )
            for number, identifier in enumerate(identifiers, start=1):
                connection.execute(
                    """INSERT INTO deployments (id, tenant_id, project_id, repository_url, branch, release_sequence,
                    host) VALUES (%s, %s, %s, 'https://example.org/x.git', 'main', %s, 'h')""",
                    (identifier, self.tenant_id, project, number),
                )
        return identifiers

    @contextlib.contextmanager
    def clients(self) -> Generator[Helper]:
        helper = Helper("tests.bench.stream_clients", self.environment)
        try:
            yield helper
        finally:
            helper.close()

    @contextlib.contextmanager
    def writer(self) -> Generator[Helper]:
        helper = Helper("tests.bench.stream_writer", self.environment)
        try:
            yield helper
        finally:
            helper.close()

    def open(self, clients: Helper, count: int, deployments: list[str]) -> float:
        answer = clients.ask(open=count, port=self.port, token=self.token, deployments=deployments)
        return answer["seconds"]

    def memory(self) -> tuple[float, float]:
        """KB of the API: resident, proportional."""
        found = self.api.memory_full_info()
        return found.rss / 1024, found.pss / 1024

    def processor_seconds(self) -> float:
        times = self.api.cpu_times()
        return times.user + times.system


@contextlib.contextmanager
def running(folder: Path) -> Generator[Bench]:
    postgres_port, valkey_port, port = free_ports(3)
    postgres = PostgresServer(folder / "postgres", port=postgres_port, password=secrets.token_hex(16))
    valkey = ValkeyServer(folder / "valkey", port=valkey_port, password=secrets.token_hex(16), is_durable=False)
    with contextlib.ExitStack() as stack:
        for server in (postgres, valkey):
            server.start()
            stack.callback(server.stop)
            server.wait()
        migrate(postgres.url)
        environment = environment_of(folder, postgres.url, valkey.url, port)
        log = stack.enter_context((folder / "api.log").open("w"))
        api = psutil.Popen([sys.executable, "-m", "api.main"], env=environment, stdout=log, stderr=log)
        stack.callback(end, api)
        token = register(f"http://127.0.0.1:{port}/api")
        with psycopg.connect(postgres.url) as connection:
            row = connection.execute("SELECT tenant_id FROM memberships").fetchone()
        assert row is not None
        database = Database(postgres.url)
        stack.callback(database.close)
        yield Bench(environment, database, psutil.Process(api.pid), port, token, row[0])


def environment_of(folder: Path, database_url: str, redis_url: str, port: int) -> dict[str, str]:
    return {
        **os.environ,
        "CLOUDIFY_HOME": str(folder / "home"),
        "CLOUDIFY_DATABASE_URL": database_url,
        "CLOUDIFY_REDIS_URL": redis_url,
        # Nothing here is old enough to have been moved to the object store.
        "CLOUDIFY_S3_ENDPOINT": "http://127.0.0.1:9",
        "CLOUDIFY_S3_ACCESS_KEY": "bench",
        "CLOUDIFY_S3_SECRET_KEY": "bench",
        "CLOUDIFY_SECRET_KEY": secrets.token_hex(32),
        "CLOUDIFY_REGISTRATION_ENABLED": "true",
        "CLOUDIFY_ENCRYPTION_KEYS": "k1:" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "CLOUDIFY_API_PORT": str(port),
        "CLOUDIFY_METRICS_PORT": "0",
        "CLOUDIFY_LOG_LEVEL": "warning",
        "CLOUDIFY_STREAMS_PER_USER": str(STREAMS_PER_USER),
    }


def register(url: str) -> str:
    for _ in range(300):
        with contextlib.suppress(httpx.TransportError):
            body = {"email": "bench@example.com", "password": secrets.token_hex(16)}
            answer = httpx.post(f"{url}/auth/register", json=body, timeout=30)
            return answer.json()["data"]["accessToken"]
        time.sleep(0.1)
    raise RuntimeError("The API doesn't answer.")


def end(process: psutil.Popen) -> None:
    process.terminate()
    process.wait(30)


def wait_for_lines(clients: Helper, count: int, seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while (report := clients.ask(report=True))["lines"] < count and time.monotonic() < deadline:
        time.sleep(0.1)
    return report


def bench_latency(bench: Bench, streams: int, deployments: int, rate: float, seconds: float) -> None:
    identifiers = bench.deployments(deployments)
    with bench.clients() as clients, bench.writer() as writer:
        opening = bench.open(clients, streams, identifiers)
        warm_up = writer.ask(deployments=identifiers, rate=rate, seconds=2)
        wait_for_lines(clients, warm_up["lines"] * streams // deployments, 60)
        clients.ask(reset=True)
        used, began = bench.processor_seconds(), time.monotonic()
        written = writer.ask(deployments=identifiers, rate=rate, seconds=seconds)
        expected = written["lines"] * streams // deployments
        report = wait_for_lines(clients, expected, 60)
        used, took = bench.processor_seconds() - used, time.monotonic() - began
    figures = " / ".join(f"{value:.0f}" for value in report["milliseconds"])
    missing = "" if report["lines"] == expected else f"{report['lines']} of {expected}"
    line(
        f"{streams} streams on {deployments}, {rate:g} lines/s each",
        f"{figures} ms",
        f"API {used / took:.0%} of a core",
        f"{used / report['pieces'] * 1e6:.0f} us/event" if report["pieces"] else "",
        f"opened in {opening:.1f} s",
        f"load {os.getloadavg()[0]:.1f}",
        missing,
    )


def bench_memory(bench: Bench, rounds: int) -> None:
    [identifier] = bench.deployments(1)
    before = bench.memory()
    line("memory of the API, no streams (RSS, PSS)", f"{before[0] / 1024:.0f} MB", f"{before[1] / 1024:.0f} MB")
    for number in range(rounds):
        with bench.writer() as writer, bench.clients() as clients:
            for streams in (1000, 2000):
                bench.open(clients, 1000, [identifier])
                writer.ask(deployments=[identifier], rate=20, seconds=3)
                now = bench.memory()
                each = " / ".join(f"{(a - b) / streams:.1f}" for a, b in zip(now, before, strict=True))
                sizes = [f"{size / 1024:.0f} MB" for size in now]
                line(f"memory, {streams} streams, round {number + 1}", *sizes, f"{each} KB each")
        time.sleep(2)
    after = bench.memory()
    line("memory after they left", f"{after[0] / 1024:.0f} MB", f"{after[1] / 1024:.0f} MB")


def bench_full_speed(bench: Bench, streams: int, seconds: float) -> None:
    [identifier] = bench.deployments(1)
    with bench.clients() as clients, bench.writer() as writer:
        bench.open(clients, streams, [identifier])
        used, began = bench.processor_seconds(), time.monotonic()
        written = writer.ask(deployments=[identifier], rate=0, seconds=seconds)
        report = wait_for_lines(clients, written["lines"] * streams, 20 * seconds)
        used, took = bench.processor_seconds() - used, time.monotonic() - began
    line(
        f"one build at full speed, {streams} streams",
        f"{written['lines'] / written['seconds']:.0f} lines/s in",
        f"{report['lines'] / took:.0f} lines/s out",
        f"behind by {took - written['seconds']:.1f} s",
        f"API {used / took:.0%} of a core",
        f"{report['milliseconds'][1]:.0f} ms p95",
    )


def bench_replay(bench: Bench, megabytes: int) -> None:
    [identifier] = bench.deployments(1)
    store = PostgresLogStore(bench.database)
    text = "x" * 180
    entries = [LogLine(timestamp=1, stage="build", stream="stdout", text=f"{n:>8} {text}") for n in range(1000)]
    per_batch = sum(len(entry.text) + 16 for entry in entries)
    batches = megabytes * 1_000_000 // per_batch
    for _ in range(batches):
        with bench.database.transaction() as connection:
            store.append(connection, identifier, entries, fence=None)
    with bench.database.transaction() as connection:
        store.append(connection, identifier, [LogEnd(timestamp=1, status="ready")], fence=None)
    before = bench.memory()[0]
    with bench.clients() as clients:
        used, began = bench.processor_seconds(), time.monotonic()
        bench.open(clients, 1, [identifier])
        report = wait_for_lines(clients, batches * 1000, 300)
        used, took = bench.processor_seconds() - used, time.monotonic() - began
    line(
        f"replay of a log of {megabytes} MB",
        f"{megabytes / took:.1f} MB/s",
        f"{report['lines'] / took:.0f} lines/s",
        f"API {used / took:.0%} of a core",
        f"RSS +{(bench.memory()[0] - before) / 1024:.1f} MB",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench streams")
    parser.add_argument("--quick", action="store_true", help="a third of the time")
    parser.add_argument("--only", choices=("latency", "memory", "speed", "replay"))
    parser.add_argument("--streams", type=int, help="latency with so many streams only")
    options, _names = parser.parse_known_args()
    seconds = 5 if options.quick else 15
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)
    with tempfile.TemporaryDirectory(prefix="cloudify-bench-") as name, running(Path(name)) as bench:
        if options.only in (None, "memory"):
            bench_memory(bench, rounds=1 if options.quick else 3)
        if options.only in (None, "latency"):
            line("written -> received, p50 / p95 / p99 / max")
            for streams, deployments, rate in (
                (1, 1, 50), (100, 1, 50), (1000, 1, 50), (2000, 1, 50), (100, 100, 2), (1000, 100, 2), (2000, 100, 2),
            ):  # fmt: skip
                if options.streams in (None, streams):
                    bench_latency(bench, streams, deployments, rate, seconds)
        if options.only in (None, "speed"):
            for streams in (1, 20):
                bench_full_speed(bench, streams, seconds / 2)
        if options.only in (None, "replay"):
            bench_replay(bench, 20 if options.quick else 100)


if __name__ == "__main__":
    main()
