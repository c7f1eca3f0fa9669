"""A Redis and workers for one test, and a ledger that says how every job ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from schemas.messages import Job
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.stack.valkey import ValkeyServer
from tests.support.queue_flood import enqueue_many

PROGRAM = Path(__file__).with_name("chaos_worker.py")
# Short where a lease must expire for the test to continue; long where none may, however slow the machine is.
SHORT_LEASE_SECONDS = 1.0
LONG_LEASE_SECONDS = 120.0
TIMEOUT_SECONDS = 120.0


def until(condition: Callable[[], Any], what: str, seconds: float = TIMEOUT_SECONDS) -> Any:
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        pause.wait(0.02)
    return value


@dataclass(frozen=True)
class Account:
    """`lost`: jobs that were never finished; `duplicated`: finished more than once; `leaked`: slots still taken."""

    lost: int
    duplicated: int
    leaked: int


class Arena:
    def __init__(self, server: ValkeyServer, folder: Path, lease_seconds: float) -> None:
        self.server = server
        self.lease_seconds = lease_seconds
        self.folder = folder
        self.ledger = folder / "ledger"
        self.ledger.touch()
        self.redis: Redis = connect_redis(server.url, timeout_seconds=TIMEOUT_SECONDS)
        self.queue = RedisJobQueue(self.redis, lease_seconds=lease_seconds, maximum_tenant_depth=200_000)
        self.jobs: list[Job] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    # Jobs

    def make(self, job_id: str, *, tenant: str = "t1", limit: int = 2, attempts: int = 50, **payload: Any) -> Job:
        """Attempts are many: a process that is starved for a second loses a short lease without being at fault."""
        payload = {"kind": "work", **payload}
        return Job(
            id=job_id, pool="chaos", actor="run", tenant_id=tenant, payload=payload, slot=f"slot-{job_id}",
            tenant_limit=limit, max_attempts=attempts,
        )  # fmt: skip

    def enqueue(self, jobs: Sequence[Job]) -> None:
        self.jobs += jobs
        for job in jobs:
            assert self.queue.enqueue(job)

    def load(self, count: int, *, name: str = "j", tenants: int = 4, **payload: Any) -> None:
        self.enqueue([self.make(f"{name}{n:03}", tenant=f"t{n % tenants}", **payload) for n in range(count)])

    def hold(self, name: str, count: int = 1) -> None:
        """Enqueues jobs that run until `release(name)`, each for a tenant of its own: so that there is work under way
        at a moment that the test chooses, however fast or slow everything is."""
        self.load(count, name=f"{name}-", tenants=count, until=str(self.folder / name))

    def release(self, name: str) -> None:
        (self.folder / name).touch()

    def refill(self) -> None:
        """What the reconciler does from the database: whatever isn't known to be finished is put back."""
        finished = self.receipts()
        enqueue_many(self.queue, [job for job in self.jobs if job.id not in finished])

    # Workers

    def start(
        self, *, threads: int = 4, url: str | None = None, lease_seconds: float | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Returns when the worker takes jobs, or has died of one."""
        arguments = [url or self.server.url, str(self.ledger), str(lease_seconds or self.lease_seconds), str(threads)]
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments], env={**os.environ, **environment}, stderr=subprocess.DEVNULL
        )
        self.processes.append(process)
        until(lambda: process.poll() is not None or ["up", str(process.pid)] in self.lines("up"), "a worker")
        return process

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()
        self.redis.close()

    # What happened

    def lines(self, kind: str) -> list[list[str]]:
        return [line.split() for line in self.ledger.read_text().splitlines() if line.startswith(f"{kind} ")]

    def receipts(self) -> dict[str, set[str]]:
        """Job → the tokens of the leases that finished it."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for _, job_id, token in self.lines("receipt"):
            found[job_id].add(token)
        return found

    def begun(self, prefix: str = "", process: subprocess.Popen[bytes] | None = None) -> int:
        """How often an actor began a job of this prefix, in this process or in any."""
        return sum(
            line[1].startswith(prefix) and (process is None or line[4] == str(process.pid))
            for line in self.lines("started")
        )

    def finished(self, prefix: str) -> int:
        """How many jobs of this prefix are finished."""
        return sum(job_id.startswith(prefix) for job_id in self.receipts())

    def attempts(self) -> Counter[int]:
        """How often an actor began a first, second… attempt."""
        return Counter(int(attempt) for _, _, attempt, _, _ in self.lines("started"))

    def is_empty(self) -> bool:
        return not any(row.depth + row.inflight + row.delayed + row.dead for row in self.queue.stats())

    def settle(self) -> Account:
        """Waits until every job is accounted for and the queue is empty, or too long; then says what is wrong."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        pause = threading.Event()
        while time.monotonic() < deadline:
            if len(self.receipts()) == len(self.jobs) and self.is_empty():
                break
            pause.wait(0.05)
        receipts = self.receipts()
        account = Account(
            lost=sum(not receipts[job.id] for job in self.jobs) + sum(row.dead for row in self.queue.stats()),
            duplicated=sum(len(tokens) > 1 for tokens in receipts.values()),
            leaked=sum(len(self.queue.running_set(tenant)) for tenant in self.queue.tenants_with_slots()),
        )
        print(f"{len(self.jobs)} jobs: {account}, attempts {dict(self.attempts())}")
        return account


@contextmanager
def arena_on(server: ValkeyServer, folder: Path, *, lease_seconds: float = SHORT_LEASE_SECONDS) -> Iterator[Arena]:
    server.start()
    server.wait(TIMEOUT_SECONDS)
    arena = Arena(server, folder, lease_seconds)
    try:
        yield arena
    finally:
        arena.close()
        server.stop()
