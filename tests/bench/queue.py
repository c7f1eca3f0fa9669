"""The queue against Dramatiq's own RedisBroker: same Redis, same actors, same numbers of processes and threads.

`python -m tests.bench queue [--quick] [--waiting N]`. Rounds are interleaved and figures are medians, because machines
are noisy: the ratios say more than the absolute figures. Stock is measured as it comes, and "tuned" with
dramatiq_queue_prefetch=128, with which it admits 128 messages a process ahead of its threads.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import dramatiq
import msgspec
from redis import Redis

from schemas.messages import Job
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import Disposition
from shared.stack.ports import free_ports
from shared.stack.valkey import ValkeyServer
from tests.bench.queue_worker import QUEUE, Recorder, declare_actors, make_broker
from tests.support.queue_flood import enqueue_many

STOCK, TUNED, OURS = "stock", "tuned", "cloudify"
LIMIT, TENANTS, JOBS_EACH, WORK_SECONDS = 2, 200, 20, 0.005


def line(name: str, ours: str, stock: str = "", ratio: str = "") -> None:
    print(f"{name:<58} {ours:>22} {stock:>30} {ratio:>10}", flush=True)


@contextlib.contextmanager
def server(directory: Path) -> Generator[tuple[str, Redis]]:
    [port] = free_ports(1)
    valkey = ValkeyServer(directory, port=port, password="b" * 32, is_durable=False)
    directory.mkdir(parents=True, exist_ok=True)
    valkey.start()
    try:
        valkey.wait()
        with connect_redis(valkey.url, timeout_seconds=60) as redis:
            yield valkey.url, redis
    finally:
        valkey.stop()


@contextlib.contextmanager
def workers(redis: Redis, url: str, kind: str, count: int, *arguments: str) -> Generator[list[subprocess.Popen[bytes]]]:
    """Processes that are ready and wait for `bench:go`; when they have ended, what they saw is in `reports`."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    if kind == TUNED:
        environment["dramatiq_queue_prefetch"] = "128"
    broker = OURS if kind == OURS else STOCK
    before = redis.llen("bench:up")
    command = [sys.executable, "-m", "tests.bench.queue_worker", broker, url, *arguments]
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in range(count)]
    try:
        wait_until(lambda: redis.llen("bench:up") == before + count, 60)
        yield processes
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], Any], seconds: float, *, every: float = 0.01) -> float:
    """The seconds that it took; raises AssertionError when it took too long."""
    started = time.perf_counter()
    while not condition():
        assert time.perf_counter() - started < seconds, "the benchmark hangs"
        time.sleep(every)
    return time.perf_counter() - started


def left(redis: Redis, kind: str) -> int:
    if kind != OURS:
        return redis.hlen(f"dramatiq:{QUEUE}.msgs") + redis.hlen(f"dramatiq:{QUEUE}.DQ.msgs")
    keys = ("enqueued", "delayed", "leases")
    return sum(redis.zcard(f"{{cloudify}}:queue:{QUEUE}:{key}") for key in keys)


def reports(redis: Redis) -> list[dict[str, Any]]:
    return [json.loads(entry) for entry in redis.lrange("bench:reports", 0, -1)]


def actors_of(kind: str, redis: Redis) -> dict[str, dramatiq.Actor[Any, Any]]:
    return declare_actors(make_broker(kind, redis), redis, Recorder())


def snapshot(redis: Redis) -> list[tuple[bytes, bytes]]:
    keys = list(redis.scan_iter(count=1000))
    with redis.pipeline(transaction=False) as pipeline:
        for key in keys:
            pipeline.dump(key)
        return list(zip(keys, pipeline.execute(), strict=True))


def restore(redis: Redis, entries: list[tuple[bytes, bytes]]) -> None:
    redis.flushall()
    with redis.pipeline(transaction=False) as pipeline:
        for key, value in entries:
            pipeline.restore(key, 0, value)
        pipeline.execute()


# -- throughput ------------------------------------------------------------------------------------------------------


def bench_burn_down(url: str, redis: Redis, *, jobs: int, rounds: int) -> None:
    filled: dict[str, list[tuple[bytes, bytes]]] = {}
    for kind in (STOCK, OURS):
        redis.flushall()
        noop = actors_of(kind, redis)["noop"]
        for _ in range(jobs):
            noop.send()
        filled[kind] = snapshot(redis)
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for processes, kind in itertools.product((1, 2), (STOCK, TUNED, OURS)):
            restore(redis, filled[OURS if kind == OURS else STOCK])
            with workers(redis, url, kind, processes):
                redis.set("bench:go", 1)
                seconds = wait_until(lambda kind=kind: left(redis, kind) == 0, 300)
            executed = sum(report["executed"] for report in reports(redis))
            assert executed == jobs, f"{kind} ran {executed} of {jobs} jobs"
            rates.setdefault((kind, processes), []).append(jobs / seconds)
    for processes, other in itertools.product((1, 2), (STOCK, TUNED)):
        ours, stock = statistics.median(rates[OURS, processes]), statistics.median(rates[other, processes])
        name = f"burn-down of {jobs} no-op jobs, {processes} x 8 threads"
        line(name, f"{ours:.0f} jobs/s", f"{other} {stock:.0f} jobs/s", f"{ours / stock:.2f} x")


def bench_enqueue(redis: Redis, *, rounds: int) -> None:
    redis.flushall()
    actors = {kind: actors_of(kind, redis)["noop"] for kind in (STOCK, OURS)}
    rates: dict[str, list[float]] = {STOCK: [], OURS: []}
    for _ in range(rounds):
        for kind, actor in actors.items():
            started = time.perf_counter()
            for _ in range(1000):
                actor.send()
            rates[kind].append(1000 / (time.perf_counter() - started))
    ours, stock = statistics.median(rates[OURS]), statistics.median(rates[STOCK])
    line("sequential enqueue", f"{ours:.0f} jobs/s", f"{stock:.0f} jobs/s", f"{ours / stock:.2f} x")


# -- latency ---------------------------------------------------------------------------------------------------------


def bench_pickup(url: str, redis: Redis, *, samples: int) -> None:
    redis.flushall()
    redis.set("bench:go", 1)
    figures: dict[str, str] = {}
    p99: dict[str, float] = {}
    with workers(redis, url, STOCK, 1), workers(redis, url, OURS, 1):
        actors = {kind: actors_of(kind, redis)["pickup"] for kind in (STOCK, OURS)}
        time.sleep(1.5)  # until both are idle
        for _ in range(samples):
            for kind in (STOCK, OURS):
                actors[kind].send(time.monotonic())
                time.sleep(random.uniform(0.03, 0.09))
        wait_until(lambda: left(redis, STOCK) + left(redis, OURS) == 0, 30)
    # Workers end in the order in which their contexts do: the inner one first.
    for kind, report in zip((OURS, STOCK), reports(redis), strict=True):
        times = sorted(1000 * seconds for seconds in report["pickups"])
        assert len(times) == samples
        p50, p95, p99[kind] = (times[min(samples - 1, int(samples * q))] for q in (0.5, 0.95, 0.99))
        figures[kind] = f"{p50:.1f} / {p95:.1f} / {p99[kind]:.1f} ms"
    name = f"idle pickup p50 / p95 / p99 of {samples}"
    line(name, figures[OURS], figures[STOCK], f"{p99[OURS] / p99[STOCK]:.3f} x")


def bench_recovery(url: str, redis: Redis) -> None:
    redis.flushall()
    redis.set("bench:go", 1)
    lease, timeout_seconds = 5.0, 12.0
    seconds: dict[str, float | None] = {}
    for kind in (STOCK, OURS):
        arguments = [str(lease)] if kind == OURS else []
        with workers(redis, url, kind, 1, *arguments) as (first,):
            actors_of(kind, redis)["hang"].send(kind)
            wait_until(lambda kind=kind: redis.llen(f"bench:started:{kind}") == 1, 30)
            with workers(redis, url, kind, 1, *arguments) as (second,):
                first.kill()
                try:
                    key = f"bench:started:{kind}"
                    seconds[kind] = wait_until(lambda key=key: redis.llen(key) == 2, timeout_seconds)
                except AssertionError:
                    seconds[kind] = None
                second.kill()
    ours = seconds[OURS]
    assert ours is not None
    stock = f"not within {timeout_seconds:.0f} s" if seconds[STOCK] is None else f"{seconds[STOCK]:.1f} s"
    line(f"crash recovery after SIGKILL, lease of {lease:.0f} s", f"{ours:.2f} s = lease {ours - lease:+.2f} s", stock)


# -- limits ----------------------------------------------------------------------------------------------------------


def bench_limits(url: str, redis: Redis, *, timeout_seconds: float) -> None:
    """200 tenants x 20 jobs of 5 ms, a tenant's one after the other, two at once a tenant. Stock is stopped after
    `timeout_seconds` seconds, when it has reported what it did by then."""
    jobs = TENANTS * JOBS_EACH
    rates: dict[str, float] = {}
    for name in ("cloudify", "stock, its backoff", "stock, 10-50 ms backoff"):
        kind = OURS if name == "cloudify" else STOCK
        redis.flushall()
        enqueue_limited(redis, name)
        with workers(redis, url, kind, 1):
            redis.set("bench:go", 1)
            started = time.perf_counter()
            with contextlib.suppress(AssertionError):
                wait_until(lambda kind=kind: left(redis, kind) == 0, timeout_seconds)
            seconds = time.perf_counter() - started
        [report] = reports(redis)
        completed, wasted = report["completed"], report["executed"] - report["completed"]
        assert kind != OURS or (completed == jobs and wasted == 0)
        rates[name] = completed / seconds
        figures = f"{rates[name]:.0f} jobs/s"
        title = f"limit {LIMIT}: {name}"
        line(title, f"{figures}, wasted {wasted}, at once {report['peak']}", f"{completed} of {jobs} done")
    ours, stock = rates["cloudify"], max(rate for name, rate in rates.items() if name != "cloudify")
    line(
        "limit scenario, ours against stock's better",
        f"{ours:.0f} jobs/s",
        f"{stock:.0f} jobs/s",
        f"{ours / stock:.1f} x",
    )


def enqueue_limited(redis: Redis, name: str) -> None:
    payloads = [
        {"tenant": f"t{tenant}", "seconds": WORK_SECONDS, "limit": LIMIT}
        for tenant in range(TENANTS)
        for _ in range(JOBS_EACH)
    ]
    if name == "cloudify":
        jobs = [
            Job(
                id=f"j{number}", pool=QUEUE, actor="limited", tenant_id=str(payload["tenant"]), slot=f"s{number}",
                payload={"tenant": str(payload["tenant"]), "milliseconds": int(WORK_SECONDS * 1000)},
                tenant_limit=LIMIT,
            )
            for number, payload in enumerate(payloads)
        ]  # fmt: skip
        enqueue_many(RedisJobQueue(redis), jobs)
        return
    options: dict[str, Any] = {"min_backoff": 10, "max_backoff": 50} if "10-50" in name else {}
    actor = actors_of(STOCK, redis)["rate_limited"]
    broker = actor.broker
    for payload in payloads:
        broker.enqueue(actor.message_with_options(args=(payload,), **options))


# -- cost by size ----------------------------------------------------------------------------------------------------


def job_of(number: int, tenant: str, **more: Any) -> Job:
    return Job(id=f"job-{number:08}", pool=QUEUE, actor="noop", tenant_id=tenant, payload={"n": number}, **more)


def fill(redis: Redis, count: int, make: Callable[[int], Job]) -> RedisJobQueue:
    """By two threads, so that one encodes while Redis works for the other."""
    queue = RedisJobQueue(redis, maximum_depth=10**9, maximum_tenant_depth=10**9)

    def part(first: int) -> None:
        for start in range(first, count, 2000):
            enqueue_many(queue, [make(number) for number in range(start, min(start + 1000, count))])

    threads = [threading.Thread(target=part, args=(first,)) for first in (0, 1000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return queue


def dispatch(queue: RedisJobQueue, cycles: int) -> tuple[float, float]:
    """Acquire one and finish it: µs for the caller (median) and µs of Redis's time (mean). The line stays as long."""
    times: list[float] = []
    spent = 0
    for _ in range(cycles):
        queue.redis.config_resetstat()
        started = time.perf_counter()
        [acquired] = queue.acquire(QUEUE, 1, worker="bench", request_id=f"r{time.monotonic_ns()}").jobs
        queue.finish(acquired.job.id, acquired.token, Disposition.DONE)
        times.append(time.perf_counter() - started)
        spent += queue.redis.info("commandstats")["cmdstat_evalsha"]["usec"]
        queue.enqueue(acquired.job)
    return statistics.median(times) * 1e6, spent / cycles


def bench_dispatch(folder: Path, name: str, sizes: list[int], make: Callable[[int], Callable[[int], Job]]) -> None:
    """One Redis a size, so that the rounds can be interleaved. `make(size)(number)` makes the jobs of a size."""
    with contextlib.ExitStack() as stack:
        queues: dict[int, RedisJobQueue] = {}
        for size in sizes:
            _url, redis = stack.enter_context(server(folder / f"{name}-{size}".replace(" ", "-")))
            before = redis.info("memory")["used_memory"]
            runnable = 1000 if "blocked" in name else 0
            queues[size] = fill(redis, size + runnable, make(size))
            if size == max(sizes) and not runnable:
                used = (redis.info("memory")["used_memory"] - before) / size
                payload = statistics.mean(len(msgspec.json.encode(make(size)(n))) for n in range(0, size, size // 100))
                line(
                    "memory of a waiting job beyond its payload", f"{used - payload:.0f} B", f"payload {payload:.0f} B"
                )
            dispatch(queues[size], 100)
        rounds: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
        for size in sizes * 10:
            rounds[size].append(dispatch(queues[size], 100))
    medians = {
        size: [statistics.median(column) for column in zip(*figures, strict=True)] for size, figures in rounds.items()
    }
    first = medians[sizes[0]]
    for size, (wall, redis_time) in medians.items():
        title = f"dispatch (acquire + finish), {size} {name}"
        ratios = f"{wall / first[0]:.2f}/{redis_time / first[1]:.2f} x"
        line(title, f"{wall:.0f} µs", f"in Redis {redis_time:.0f} µs", ratios)


def blocked_tenants(size: int) -> Callable[[int], Job]:
    def make(number: int) -> Job:
        if number < size:
            return job_of(number, f"blocked{number}", slot=f"d{number}", tenant_limit=0)
        return job_of(number, "runnable", slot=f"d{number}", tenant_limit=2)

    return make


def waiting_jobs(_size: int) -> Callable[[int], Job]:
    return lambda number: job_of(number, f"t{number % 10}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench queue")
    parser.add_argument("--quick", action="store_true", help="a tenth of the jobs, one round")
    parser.add_argument("--waiting", type=int, default=None, help="the longest line, 1000000 by default")
    options, _names = parser.parse_known_args()
    quick = options.quick
    longest = options.waiting or (100_000 if quick else 1_000_000)
    print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores", flush=True)
    line("", "cloudify", "stock", "ratio")
    with tempfile.TemporaryDirectory(prefix="cloudify-bench-") as name:
        folder = Path(name)
        with server(folder / "valkey") as (url, redis):
            bench_burn_down(url, redis, jobs=4000 if quick else 20_000, rounds=1 if quick else 3)
            bench_enqueue(redis, rounds=5 if quick else 15)
            bench_pickup(url, redis, samples=50 if quick else 200)
            bench_limits(url, redis, timeout_seconds=8 if quick else 25)
            bench_recovery(url, redis)
        bench_dispatch(folder, "blocked tenants", [0, 1000, 10_000], blocked_tenants)
        bench_dispatch(folder, "waiting jobs", sorted({1000, min(100_000, longest), longest}), waiting_jobs)


if __name__ == "__main__":
    main()
