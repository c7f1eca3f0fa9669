"""A worker process for the broker's tests: serves one pool until it is signalled.

Arguments: Redis URL, pool, lease seconds, threads. What it does is recorded in Redis lists named `test:…`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import dramatiq
from dramatiq import Worker

from shared.queue.connection import connect_redis
from shared.queue.dramatiq.broker import PriorityBroker, current_lease
from shared.queue.job_queue import RedisJobQueue


def main() -> None:
    url, pool, lease_seconds, threads = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    redis = connect_redis(url)
    broker = PriorityBroker(RedisJobQueue(redis, lease_seconds=lease_seconds))

    def run_stage(payload: dict[str, object]) -> None:
        lease = current_lease()
        assert lease is not None
        redis.rpush("test:started", f"{lease.job.id}:{lease.attempt}:{lease.token}:{os.getpid()}")
        while payload.get("hangs") and not (lease.stopping.is_set() or lease.lost.is_set()):
            # Waits for either of two events; the heartbeat sets them.
            lease.stopping.wait(0.02)
        if lease.lost.is_set():
            redis.rpush("test:lost", os.getpid())
        elif lease.stopping.is_set():
            lease.release()
        else:
            redis.rpush("test:done", lease.job.id)

    dramatiq.actor(run_stage, broker=broker, queue_name=pool)
    worker = Worker(broker, worker_threads=threads, worker_timeout=100)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    worker.start()
    redis.rpush("test:up", os.getpid())
    stop.wait()
    worker.stop()
    broker.close()
    redis.close()


if __name__ == "__main__":
    main()
