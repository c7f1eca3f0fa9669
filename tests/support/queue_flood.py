"""Puts many jobs into the queue quickly."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.messages import Job
from shared.queue.encoding import encode_job, flatten
from shared.queue.job_queue import RedisJobQueue

# Jobs per script, so that a script ends within milliseconds and doesn't hold up other clients.
_CHUNK = 100


def enqueue_many(queue: RedisJobQueue, jobs: Sequence[Job]) -> int:
    """Returns how many were accepted. Skips jobs that already wait or run, or exceed a bound. May be repeated.

    The script takes any number of jobs; producers enqueue one at a time.
    """
    taken = 0
    for first in range(0, len(jobs), _CHUNK):
        arguments = flatten(encode_job(queue.bounded(job)) for job in jobs[first : first + _CHUNK])
        bounds = (queue._maximum_depth, queue._maximum_tenant_depth)
        taken += queue._scripts.run("enqueue", *bounds, *arguments).count(1)
    return taken
