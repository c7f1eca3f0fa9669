"""Converts between the queue's jobs and Dramatiq's messages."""

from __future__ import annotations

from typing import Any

import msgspec
from dramatiq import Message
from dramatiq.actor import Actor

from schemas.messages import Job

# The key of the payload under which a message sent by Dramatiq's own API is kept whole.
_WHOLE = "dramatiq_message"
DEFAULT_TENANT = "default"


def message_of(job: Job) -> Message[Any]:
    """The message of a job. A job calls its actor with one keyword argument, `payload`; a plain message keeps its own.

    Raises dramatiq.errors.DecodeError for a malformed plain message.
    """
    whole = job.payload.get(_WHOLE)
    if isinstance(whole, str):
        return Message.decode(whole.encode())
    return Message(
        queue_name=job.pool,
        actor_name=job.actor,
        args=(),
        kwargs={"payload": dict(job.payload)},
        options={} if job.traceparent is None else {"traceparent": job.traceparent},
        message_id=job.id,
        message_timestamp=job.enqueued_at_ms or 0,
    )


def job_of(message: Message[Any], actor: Actor[..., Any] | None) -> Job:
    """The job of a plain message. It has the default tenant and no slot; `max_retries` bounds its attempts."""
    retries = message.options.get("max_retries")
    if retries is None and actor is not None:
        retries = actor.options.get("max_retries")
    job = Job(
        id=message.message_id,
        pool=message.queue_name,
        actor=message.actor_name,
        tenant_id=DEFAULT_TENANT,
        payload={_WHOLE: message.encode().decode()},
    )
    return job if retries is None else msgspec.structs.replace(job, max_attempts=int(retries) + 1)
