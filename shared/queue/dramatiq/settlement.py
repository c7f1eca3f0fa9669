"""Decides the settlement of a job whose actor has returned or raised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dramatiq.errors import Retry
from dramatiq.middleware import Shutdown

from shared.backoff import Backoff
from shared.queue.dramatiq.lease import RunningLease, Settlement
from shared.queue.records import Disposition


def settlement_of(
    lease: RunningLease, options: dict[str, Any], error: BaseException | None, *, is_rejected: bool, backoff: Backoff
) -> Settlement:
    """The settlement that the actor set. Otherwise done, or by the error: retry with backoff, release, or dead.

    `options`: the actor's, overridden by the message's, with Dramatiq's names and delays in milliseconds.
    """
    if lease.settlement is not None:
        return lease.settlement
    if error is None:
        return Settlement(Disposition.DEAD, reason="rejected") if is_rejected else Settlement(Disposition.DONE)
    if lease.cancelled.is_set():
        # It failed because of the cancellation, or before it noticed it. Either way it must not run again.
        return Settlement(Disposition.DONE)
    if any(job.id == lease.job.id for job, _delay in lease.sent_jobs):
        # Dramatiq's Retries middleware was added and has sent a copy of the message, which replaces it.
        return Settlement(Disposition.DONE)
    reason = f"{type(error).__name__}: {error}"
    throws = options.get("throws")
    if is_rejected or (throws and isinstance(error, throws)):
        return Settlement(Disposition.DEAD, reason=reason)
    if isinstance(error, Shutdown):
        return Settlement(Disposition.RELEASE)
    if isinstance(error, Retry) and error.delay is not None:
        return Settlement(Disposition.RETRY, delay_seconds=error.delay / 1000, reason=reason)
    if options.get("min_backoff"):
        backoff = replace(backoff, base_seconds=options["min_backoff"] / 1000)
    if options.get("max_backoff"):
        backoff = replace(backoff, maximum_seconds=options["max_backoff"] / 1000)
    return Settlement(Disposition.RETRY, delay_seconds=backoff.delay_seconds(lease.attempt), reason=reason)
