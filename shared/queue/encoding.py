"""Converts jobs and finishes to the arguments of scripts, and replies to jobs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from schemas.messages import MESSAGE_VERSION, Job
from shared.queue.records import Disposition

Arguments = list[str | bytes | int]

# Names are parts of keys, separated by colons.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(Job)


class _Envelope(msgspec.Struct, frozen=True):
    """What every version of a message has."""

    id: str
    pool: str
    actor: str
    tenant_id: str
    version: int = 1


_ENVELOPE_DECODER = msgspec.json.Decoder(_Envelope)


def encode_name(value: str) -> str:
    """Raises ValueError for an invalid name of a pool or tenant."""
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} can't name a pool or tenant; use letters, digits, '_', '.' and '-'.")
    return value


def encode_share(limit: int, weight: int) -> tuple[int, int]:
    """Raises ValueError for an invalid limit or weight."""
    if limit < 0 or weight < 1:
        raise ValueError(f"A tenant's limit ({limit}) must be at least 0 and its weight ({weight}) at least 1.")
    return limit, weight


def encode_job(job: Job, delay_seconds: float = 0.0) -> Arguments:
    """Raises ValueError for an invalid job."""
    if not job.id:
        raise ValueError("A job needs an id.")
    if not 0 <= job.priority <= 9 or job.max_attempts < 1:
        raise ValueError(
            f"Job {job.id}: priority must be 0 to 9 (is {job.priority}) and max_attempts at least 1 "
            f"(is {job.max_attempts})."
        )
    limit, weight = encode_share(job.tenant_limit, job.tenant_weight)
    return [
        job.id,
        encode_name(job.pool),
        encode_name(job.tenant_id),
        job.slot or "",
        job.priority,
        limit,
        weight,
        job.max_attempts,
        "" if job.enqueued_at_ms is None else job.enqueued_at_ms,
        int(max(0.0, delay_seconds) * 1000),
        _ENCODER.encode(job),
    ]


def decode_job(body: bytes, enqueued_at_ms: int) -> Job:
    """`enqueued_at_ms` is the time recorded by the queue, used if the job has none itself.

    A newer message that can't be read has an empty payload.
    """
    try:
        job = _DECODER.decode(body)
    except msgspec.ValidationError:
        envelope = _ENVELOPE_DECODER.decode(body)
        if envelope.version <= MESSAGE_VERSION:
            raise
        job = Job(**msgspec.structs.asdict(envelope), payload={})
    return job if job.enqueued_at_ms is not None else msgspec.structs.replace(job, enqueued_at_ms=enqueued_at_ms)


def encode_finish(
    job_id: str,
    token: int,
    disposition: Disposition,
    *,
    delay_seconds: float = 0.0,
    reason: str = "",
    next_jobs: Sequence[Job | tuple[Job, float]] = (),
) -> Arguments:
    """The arguments that end one lease. `next_jobs`: jobs, or jobs with their delays in seconds.

    Raises ValueError as encode_job does.
    """
    delay_ms = int(max(0.0, delay_seconds) * 1000)
    arguments: Arguments = [job_id, token, disposition.value, delay_ms, reason[:500], len(next_jobs)]
    for entry in next_jobs:
        arguments += encode_job(*entry) if isinstance(entry, tuple) else encode_job(entry)
    return arguments


def flatten(parts: Iterable[Arguments]) -> list[Any]:
    return [argument for part in parts for argument in part]
