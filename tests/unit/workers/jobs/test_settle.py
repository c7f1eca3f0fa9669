"""What becomes of a job's outcome while the log, the database or the lease fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Never

import pytest

from schemas.messages import Job
from shared import errors
from shared.errors import LeaseLost, PlatformError
from tests.support.held_lease import HeldLease
from workers.jobs.settle import settle
from workers.pipeline.deployment_view import RETRY_MAXIMUM_SECONDS
from workers.pipeline.outcome import Cancelled, Failed, Lost, Outcome, Retry, Succeeded

AWAY = PlatformError("The database does not answer.")
RETRY = Retry("PlatformError", "The object store does not answer.")


class RecordedSubject:
    """`failures` are what the recordings raise, in order; None, and every later one, succeeds."""

    def __init__(self, *failures: Exception | None, announcement: Exception | None = None) -> None:
        self._failures = list(failures)
        self._announcement = announcement
        self.recorded: list[str] = []
        self.counted: list[str] = []

    def announce(self, outcome: Outcome[None]) -> None:
        if self._announcement is not None:
            raise self._announcement

    def give_up(self, retry: Retry) -> Outcome[Never]:
        return Failed("PLATFORM_ERROR", "Given up.", is_given_up=True)

    def record(self, outcome: Outcome[None]) -> Sequence[Job]:
        self.recorded.append(outcome.name)
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure
        return []

    def count(self, outcome: Outcome[None]) -> None:
        self.counted.append(outcome.name)


def held_lease(attempt: int = 1) -> HeldLease:
    job = Job(
        id="depl_1:build",
        pool="build",
        actor="run_stage",
        tenant_id="ten_1",
        payload={"deployment_id": "depl_1"},
        max_attempts=3,
    )
    return HeldLease(job, 1, attempt)


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_retry_is_not_recorded_twice_while_the_database_is_away(attempt: int) -> None:
    lease, subject = held_lease(attempt), RecordedSubject(AWAY, AWAY)
    settle(lease, subject, RETRY)
    assert len(subject.recorded) == 1
    assert lease.outcome == ("retry", RETRY_MAXIMUM_SECONDS)
    assert subject.counted == ["retrying"]


def test_a_retry_whose_lease_is_lost_meanwhile_is_lost() -> None:
    lease, subject = held_lease(), RecordedSubject(LeaseLost())
    assert settle(lease, subject, RETRY) == Lost()
    assert subject.recorded == ["retrying"]
    assert lease.outcome == ("none", None)


@pytest.mark.parametrize("outcome", [Succeeded(), Cancelled()])
def test_another_outcome_that_cannot_be_recorded_becomes_a_retry(outcome: Outcome[None]) -> None:
    lease, subject = held_lease(), RecordedSubject(AWAY)
    assert isinstance(settle(lease, subject, outcome), Retry)
    assert subject.recorded == [outcome.name, "retrying"]
    assert lease.outcome[0] == "retry"
    assert lease.outcome[1] < RETRY_MAXIMUM_SECONDS


def test_an_outcome_that_cannot_be_announced_becomes_a_retry() -> None:
    lease, subject = held_lease(), RecordedSubject(announcement=PlatformError("The log does not answer."))
    assert isinstance(settle(lease, subject, Succeeded()), Retry)
    assert subject.recorded == ["retrying"]


def test_a_cancellation_that_came_first_is_recorded() -> None:
    lease, subject = held_lease(), RecordedSubject(errors.Cancelled())
    assert settle(lease, subject, Succeeded()) == Cancelled()
    assert subject.recorded == ["succeeded", "cancelled"]
    assert lease.outcome == ("done", [])


@pytest.mark.parametrize("first", [errors.Cancelled(), AWAY])
def test_a_cancellation_that_comes_during_the_second_recording_ends_the_job(first: Exception) -> None:
    lease, subject = held_lease(), RecordedSubject(first, errors.Cancelled())
    assert settle(lease, subject, Succeeded()) == Cancelled()
    assert len(subject.recorded) == 2
    assert lease.outcome == ("done", [])
    assert subject.counted == ["cancelled"]
