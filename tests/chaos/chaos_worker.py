"""A worker process for the chaos tests, which may kill itself at a chosen step.

Arguments: Redis URL, ledger file, lease seconds, threads. Environment: KILL_AT names a step and KILL_ONCE a file that
is made by the process that dies there, so that no other does; SKEW_SECONDS sets this process's wall clock wrong.

Every `work` job ends with a successor whose id carries the token of the lease that ended it: each finish that the queue
has applied leaves exactly one receipt in the ledger, however often an answer was lost or an actor ran. A job whose
payload names a file as `until` runs until that file exists, or one with its attempt behind the name. A `poison` job
holds the interpreter for good. LIVES names the folder where the host's workers show that they live.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq import Worker

from schemas.messages import Job
from shared.queue.base import Lease
from shared.queue.connection import connect_redis
from shared.queue.dramatiq.broker import PriorityBroker, current_lease
from shared.queue.job_queue import RedisJobQueue
from shared.queue.records import Batch
from shared.worker_life import DeadWorkers, WorkerLife

STEPS = ("after_acquire", "in_actor", "before_finish", "before_finish_reply", "after_finish")


def die(step: str) -> None:
    if os.environ.get("KILL_AT") != step:
        return
    try:
        os.close(os.open(os.environ["KILL_ONCE"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


class MortalQueue(RedisJobQueue):
    """The queue, with places to die at around its round trips."""

    has_finished = False

    def exchange(self, pool: str, count: int, **more: Any) -> Batch:
        if self.has_finished:
            die("after_finish")
        if more.get("finishes"):
            die("before_finish")
        batch = super().exchange(pool, count, **more)
        if more.get("finishes"):
            die("before_finish_reply")
            self.has_finished = True
        if batch.jobs:
            die("after_acquire")
        return batch


class Ledger:
    """One line an event, appended at once: it outlives the process, and Redis."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def work(lease: Lease, payload: dict[str, Any], ledger: Ledger) -> None:
    job = lease.job
    if payload["kind"] == "receipt":
        ledger.write("receipt", payload["of"], payload["token"])
        return
    ledger.write("started", job.id, lease.attempt, lease.token, os.getpid())
    if payload["kind"] == "poison":
        # No other thread gets to run until it has an answer, which takes years.
        re.match("(a+)+$", "a" * 60 + "b")
    die("in_actor")
    until = payload.get("until")
    while until and not (Path(until).exists() or Path(f"{until}-{lease.attempt}").exists()):
        threading.Event().wait(0.01)
    threading.Event().wait(float(payload.get("ms", 0)) / 1000)
    receipt = {"kind": "receipt", "of": job.id, "token": lease.token}
    lease.done(
        [Job(id=f"{job.id}-by-{lease.token}", pool=job.pool, actor=job.actor, tenant_id=job.tenant_id, payload=receipt,
             slot=job.slot, tenant_limit=job.tenant_limit, priority=0)]
    )  # fmt: skip
    ledger.write("ended", job.id, lease.token)


def main() -> None:
    url, ledger, lease_seconds, threads = sys.argv[1], Ledger(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    skew, right = float(os.environ.get("SKEW_SECONDS", "0")), time.time
    if skew:
        time.time = lambda: right() + skew
    redis = connect_redis(url, timeout_seconds=2.0)
    queue = MortalQueue(redis, lease_seconds=lease_seconds)
    broker = PriorityBroker(queue)
    lives = os.environ.get("LIVES")
    if lives:
        life = WorkerLife(Path(lives), broker.worker, "chaos")
        life.start()
        DeadWorkers(Path(lives), life, lambda pool, name, counts: queue.hand_back(pool, name, counts=counts)).start()

    def run(payload: dict[str, Any]) -> None:
        lease = current_lease()
        assert lease is not None
        work(lease, payload, ledger)

    dramatiq.actor(run, broker=broker, queue_name="chaos")
    worker = Worker(broker, worker_threads=threads, worker_timeout=100)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    worker.start()
    ledger.write("up", os.getpid())
    stop.wait()
    worker.stop(timeout=120_000)
    broker.close()
    redis.close()
    ledger.write("down", os.getpid())


if __name__ == "__main__":
    main()
