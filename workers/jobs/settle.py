"""What becomes of a job when its code has ended: one order and one `match` for every outcome and every pool.

    the user's log → the database → the lease → metrics

A crash between two of these leaves the job to be delivered again, and its next run finds what was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Never, Protocol, TypeVar

import structlog

from schemas.messages import Job
from shared import errors
from shared.errors import LeaseLost, PlatformError, Unavailable
from shared.queue.base import Lease
from workers.pipeline.deployment_view import RETRY_MAXIMUM_SECONDS, retry_delay_seconds
from workers.pipeline.outcome import Cancelled, HandedBack, Lost, Outcome, Retry, Waiting

_log = structlog.get_logger(__name__)

ResultT = TypeVar("ResultT")
SubjectT_contra = TypeVar("SubjectT_contra", contravariant=True)


class Subject(Protocol[SubjectT_contra]):
    """What a job is about: a stage of a deployment, a release, a removal."""

    def announce(self, outcome: Outcome[SubjectT_contra]) -> None:
        """Writes the outcome to the user's log, where there is one, and waits until the log is stored.

        Raises LeaseLost, PlatformError.
        """
        ...

    def give_up(self, retry: Retry) -> Outcome[Never]:
        """Returns the outcome of a job whose attempts are used up."""
        ...

    def record(self, outcome: Outcome[SubjectT_contra]) -> Sequence[Job]:
        """Records the outcome in the database and returns the jobs that follow it. May be repeated.

        Raises LeaseLost, PlatformError, Unavailable, and Cancelled if a cancellation came first.
        """
        ...

    def count(self, outcome: Outcome[SubjectT_contra]) -> None:
        """Counts the outcome in the metrics."""
        ...


def outcome_of(work: Callable[[], Outcome[ResultT]]) -> Outcome[ResultT]:
    """Runs the work of a job. Never raises: a failure of the platform is an outcome, too."""
    try:
        return work()
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not end the worker; the function sorts it
        return _outcome_after(error)


def _outcome_after(error: Exception) -> Lost | Retry:
    match error:
        case LeaseLost():
            return Lost()
        case PlatformError() | Unavailable() | OSError():
            return retry_after(error)
        case _:
            _log.error("job.crashed", exc_info=error)
            return retry_after(error)


def retry_after(error: Exception) -> Retry:
    return Retry(kind=type(error).__name__, message=str(error))


def settle(lease: Lease, subject: Subject[ResultT], outcome: Outcome[ResultT]) -> Outcome[ResultT]:
    """Tells the outcome to everybody concerned and returns the final one. Never raises.

    The final one differs if the lease turns out to be lost, a cancellation came first, the platform fails again while
    the outcome is recorded, or the attempts are used up.
    """
    outcome, following = _recorded(lease, subject, outcome)
    match outcome:
        case Lost():
            _log.warning("job.lease_lost")
        case Retry(delay_seconds=delay):
            lease.retry(retry_delay_seconds(lease.attempt) if delay is None else delay)
        case HandedBack(delay_seconds=delay):
            lease.release(delay)
        case Waiting(delay_seconds=delay):
            lease.wait_for_slot(delay)
        case _:
            lease.done(following)
    try:
        subject.count(outcome)
    except Exception:  # noqa: BLE001 - a figure that is missing must not end the worker; it is logged
        _log.exception("job.not_counted")
    return outcome


def _recorded(
    lease: Lease, subject: Subject[ResultT], outcome: Outcome[ResultT]
) -> tuple[Outcome[ResultT], Sequence[Job]]:
    """Returns the final outcome with the jobs that follow it. Records at most twice."""
    if isinstance(outcome, Lost):
        return outcome, ()
    try:
        subject.announce(outcome)
    except Exception as error:  # noqa: BLE001 - the function sorts it
        outcome = _outcome_instead(error)
    try:
        return _record(lease, subject, outcome)
    except Exception as error:  # noqa: BLE001 - the function sorts it
        failure, second = error, _outcome_instead(error)
    # Each recording waits for a database that is away: a retry isn't worth another one.
    if not (isinstance(outcome, Retry) and isinstance(second, Retry)):
        try:
            return _record(lease, subject, second)
        except Exception as error:  # noqa: BLE001 - the function sorts it
            failure, third = error, _outcome_instead(error)
        if not isinstance(third, Retry):
            return third, ()
    # The database is still away: the queue's own attempts and the reconciler take care of the job.
    _log.error("job.not_recorded", exc_info=failure)
    return Retry("Unavailable", "The outcome could not be recorded.", RETRY_MAXIMUM_SECONDS), ()


def _record(
    lease: Lease, subject: Subject[ResultT], outcome: Outcome[ResultT]
) -> tuple[Outcome[ResultT], Sequence[Job]]:
    if isinstance(outcome, Lost):
        return outcome, ()
    if isinstance(outcome, Retry):
        _log.error("job.platform_error", error=outcome.message, attempt=lease.attempt)
        if lease.is_last_attempt:
            outcome = subject.give_up(outcome)
    return outcome, subject.record(outcome)


def _outcome_instead(error: Exception) -> Cancelled | Lost | Retry:
    """The outcome that replaces one that could not be announced or recorded because of the error."""
    return Cancelled() if isinstance(error, errors.Cancelled) else _outcome_after(error)
