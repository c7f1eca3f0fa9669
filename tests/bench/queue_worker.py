"""A worker process of the queue's benchmark: `python -m tests.bench.queue_worker <broker> <redis url> [lease seconds]`.

`broker` is stock or cloudify. It starts to consume when `bench:go` is set, and reports under `bench:…` when it gets
SIGTERM. The actors are the same for both brokers; CLOCK_MONOTONIC is one for all processes of a machine.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.rate_limits import ConcurrentRateLimiter
from dramatiq.rate_limits.backends import RedisBackend
from redis import Redis

from shared.queue.connection import connect_redis
from shared.queue.dramatiq.broker import PriorityBroker
from shared.queue.job_queue import RedisJobQueue

QUEUE = "bench"
THREADS = 8


def make_broker(name: str, redis: Redis, *, lease_seconds: float = 30.0) -> dramatiq.Broker:
    if name == "cloudify":
        queue = RedisJobQueue(redis, lease_seconds=lease_seconds, maximum_depth=10**9, maximum_tenant_depth=10**9)
        return PriorityBroker(queue)
    return RedisBroker(client=redis)


class Recorder:
    """What the actors of this process saw."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Counter[str] = Counter()
        self.peak = 0
        self.figures: Counter[str] = Counter()
        self.pickups: list[float] = []

    def count(self, name: str) -> None:
        with self._lock:
            self.figures[name] += 1

    def work(self, tenant: str, seconds: float) -> None:
        with self._lock:
            self._running[tenant] += 1
            self.peak = max(self.peak, self._running[tenant])
        time.sleep(seconds)
        with self._lock:
            self._running[tenant] -= 1
            self.figures["completed"] += 1

    def report(self) -> str:
        return json.dumps({"peak": self.peak, "pickups": self.pickups, **self.figures})


def declare_actors(broker: dramatiq.Broker, redis: Redis, recorder: Recorder) -> dict[str, dramatiq.Actor[Any, Any]]:
    limits = RedisBackend(client=redis)

    def noop() -> None:
        recorder.figures["executed"] += 1

    def pickup(sent: float) -> None:
        recorder.pickups.append(time.monotonic() - sent)

    def hang(marker: str) -> None:
        redis.rpush(f"bench:started:{marker}", time.monotonic())
        threading.Event().wait(600)

    def limited(payload: dict[str, Any]) -> None:
        """Admitted by the queue: it runs only when its tenant has a free slot."""
        recorder.count("executed")
        recorder.work(payload["tenant"], payload["milliseconds"] / 1000)

    def rate_limited(payload: dict[str, Any]) -> None:
        """Admitted by nobody: it asks when it runs already, and fails, to be retried, when the limit is reached."""
        recorder.count("executed")
        with ConcurrentRateLimiter(limits, f"limit:{payload['tenant']}", limit=payload["limit"]).acquire():
            recorder.work(payload["tenant"], payload["seconds"])

    declare: Any = dramatiq.actor  # its overloads don't know of functions of several kinds
    functions: tuple[Callable[..., Any], ...] = (noop, pickup, hang, limited, rate_limited)
    return {
        function.__name__: declare(function, broker=broker, queue_name=QUEUE, max_retries=100_000)
        for function in functions
    }


def main() -> None:
    name, url = sys.argv[1:3]
    lease_seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 30.0
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    with connect_redis(url) as redis:
        broker = make_broker(name, redis, lease_seconds=lease_seconds)
        recorder = Recorder()
        declare_actors(broker, redis, recorder)
        worker = dramatiq.Worker(broker, worker_threads=THREADS)
        redis.rpush("bench:up", name)
        while not redis.get("bench:go") and not stop.is_set():
            time.sleep(0.005)
        worker.start()
        stop.wait()
        worker.stop()
        broker.close()
        redis.rpush("bench:reports", recorder.report())


if __name__ == "__main__":
    main()
