"""A busy worker that is asked to stop: what becomes of its jobs, and how long it takes.

`drained` has time enough for its jobs, `handed back` none, `urgent` gets a second SIGTERM. The worker is a process of
its own with four threads; a job takes two seconds.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from schemas.messages import Job
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.stack.valkey import ValkeyServer
from tests.bench.platform import line
from tests.support.ports import free_ports

THREADS = 4
JOB_SECONDS = 2


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("The worker did nothing.")
        time.sleep(0.01)


def one_round(url: str, *, drain_seconds: float, signals: int) -> tuple[float, int, int, int]:
    """Seconds from the first signal to the end, and the jobs that are done, back in line, and were taken after it."""
    with connect_redis(url) as redis:
        redis.flushall()
        queue = RedisJobQueue(redis)
        for number in range(THREADS * 2):
            queue.enqueue(
                Job(id=f"j{number}", pool="build", actor="work", tenant_id="t", payload={"seconds": JOB_SECONDS})
            )
        command = [sys.executable, "-m", "tests.bench.drain_worker", url, str(THREADS), str(drain_seconds)]
        process = subprocess.Popen(command)
        try:
            wait_until(lambda: redis.llen("bench:started") == THREADS)
            started = time.perf_counter()
            for _ in range(signals):
                process.send_signal(signal.SIGTERM)
                time.sleep(0.05)
            process.wait(60)
            seconds = time.perf_counter() - started
        finally:
            process.kill()
            process.wait()
        done, taken = redis.llen("bench:done"), redis.llen("bench:started") - THREADS
        in_line = sum(row.depth for row in queue.stats())
    return seconds, int(done), in_line, int(taken)


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        [port] = free_ports(1)
        server = ValkeyServer(Path(directory), port=port, password="x" * 32)
        server.start()
        try:
            server.wait()
            for name, drain_seconds, signals in (("drained", 60.0, 1), ("handed back", 0.0, 1), ("urgent", 60.0, 2)):
                seconds, done, in_line, taken = one_round(server.url, drain_seconds=drain_seconds, signals=signals)
                line(f"{name}: SIGTERM → end", f"{seconds:.2f} s")
                print(f"  {done} of {THREADS} running jobs done, {in_line} in line, {taken} taken after the signal")
                assert done + in_line == THREADS * 2, "a job was lost"
        finally:
            server.stop()


if __name__ == "__main__":
    main()
