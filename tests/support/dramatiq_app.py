"""An application as a user of Dramatiq writes it: `dramatiq tests.support.dramatiq_app` runs it.

REDIS_URL names the queue's Redis; what happens is recorded in its lists `test:…`.
"""

from __future__ import annotations

import os
import threading

import dramatiq
from dramatiq.middleware import CurrentMessage, Shutdown

from shared.queue.connection import connect_redis
from shared.queue.dramatiq.broker import PriorityBroker
from shared.queue.job_queue import RedisJobQueue

redis = connect_redis(os.environ["REDIS_URL"])
broker = PriorityBroker(RedisJobQueue(redis, lease_seconds=3600))
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="app")
def add(first: int, second: int) -> int:
    message = CurrentMessage.get_current_message()
    assert message is not None
    redis.rpush("test:ran", message.message_id)
    return first + second


@dramatiq.actor(queue_name="app")
def wait(name: str) -> None:
    """Ends when the test says so; a short while longer than a SIGTERM takes to arrive."""
    redis.rpush("test:started", name)
    try:
        while not redis.exists("test:go"):
            threading.Event().wait(0.02)
    except Shutdown:
        redis.rpush("test:interrupted", name)
        raise
    redis.rpush("test:ran", name)
