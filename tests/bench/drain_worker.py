"""The worker of the drain benchmark: stops as `workers.main` does. Arguments: Redis URL, threads, drain seconds."""

from __future__ import annotations

import signal
import sys
from typing import cast

import dramatiq
from dramatiq import Worker

from shared.queue.connection import connect_redis
from shared.queue.dramatiq.broker import PriorityBroker, current_lease
from shared.queue.job_queue import RedisJobQueue
from workers.main import StopRequest


def main() -> None:
    url, threads, drain_seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    redis = connect_redis(url)
    broker = PriorityBroker(RedisJobQueue(redis))

    def work(payload: dict[str, object]) -> None:
        lease = current_lease()
        assert lease is not None
        redis.rpush("bench:started", lease.job.id)
        if lease.stopping.wait(cast("int", payload["seconds"])):
            lease.release()
        else:
            redis.rpush("bench:done", lease.job.id)

    dramatiq.actor(work, broker=broker, queue_name="build")
    worker = Worker(broker, worker_threads=threads, worker_timeout=1000)
    stop = StopRequest()
    signal.signal(signal.SIGTERM, lambda *_: stop.ask())
    worker.start()
    stop.is_asked.wait()
    broker.drain_jobs(drain_seconds, stop.is_urgent.is_set)
    worker.stop(timeout=25_000)
    broker.close()
    redis.close()


if __name__ == "__main__":
    main()
