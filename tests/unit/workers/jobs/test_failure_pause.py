"""The pause of a worker whose jobs only fail."""

from __future__ import annotations

from schemas.messages import Job
from shared.backoff import Backoff
from tests.support.held_lease import HeldLease
from tests.support.manual_clock import ManualClock
from workers.jobs.failure_pause import FailurePause
from workers.pipeline.outcome import Failed, HandedBack, Outcome, Retry, Succeeded


class Holds:
    def __init__(self) -> None:
        self.threads: int | None = None
        self.reason = ""

    def pause(self, cause: str, reason: str, *, threads: int = 0) -> None:
        self.threads, self.reason = threads, reason

    def resume(self, cause: str) -> None:
        self.threads, self.reason = None, ""


class Worker:
    def __init__(self) -> None:
        self.holds, self.clock = Holds(), ManualClock()
        self.problem: str | None = None
        self.checks = 0
        self.pause = FailurePause(
            self.holds, check=self._check, clock=self.clock, backoff=Backoff(10.0, 60.0, jitter=0.0)
        )

    def _check(self) -> str | None:
        self.checks += 1
        return self.problem

    def ended(self, deployment: str, outcome: Outcome[object], *, tenant: str | None = None) -> None:
        """`tenant`: each deployment has one of its own unless it is given."""
        owner = tenant or f"t-{deployment}"
        job = Job(id=f"{deployment}-build", pool="build", actor="a", tenant_id=owner, payload={}, slot=deployment)
        self.pause.observe(HeldLease(job, 1), outcome)

    def passes(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.pause.look()


FAILURE = Retry("PlatformError", "The disk is broken.")


def test_a_worker_pauses_after_failures_in_a_row_and_is_tried_with_one_job_at_a_time() -> None:
    worker = Worker()
    for number in range(4):
        worker.ended(f"d{number}", FAILURE)
        worker.ended(f"d{number}", HandedBack())
    assert worker.holds.threads is None
    worker.ended("d4", Failed("PLATFORM_ERROR", "The disk is broken.", is_given_up=True))
    assert worker.holds.threads == 0
    assert "The disk is broken." in worker.holds.reason
    worker.passes(9.9)
    assert worker.holds.threads == 0
    worker.passes(0.2)
    assert worker.holds.threads == 1
    # Its trial fails: the next pause is longer.
    worker.ended("d5", FAILURE)
    assert worker.holds.threads == 0
    worker.passes(10.1)
    assert worker.holds.threads == 0
    worker.passes(10)
    assert worker.holds.threads == 1
    worker.ended("d6", Succeeded())
    assert worker.holds.threads is None
    worker.ended("d7", FAILURE)
    assert worker.holds.threads is None


def test_one_deployment_that_always_fails_pauses_nothing() -> None:
    worker = Worker()
    for _ in range(20):
        worker.ended("d1", FAILURE)
    assert worker.holds.threads is None


def test_the_users_failures_count_as_success_of_the_worker() -> None:
    worker = Worker()
    for number in range(20):
        worker.ended(f"d{number}", FAILURE if number % 5 else Failed("COMMAND_FAILED", "exit code 1"))
    assert worker.holds.threads is None


def test_failures_of_two_tenants_alone_pause_nothing() -> None:
    worker = Worker()
    for number in range(40):
        worker.ended(f"d{number}", FAILURE, tenant=f"t{number % 2}")
        worker.passes(5)
    assert worker.holds.threads is None
    # A third one.
    worker.ended("d40", FAILURE, tenant="t2")
    assert worker.holds.threads == 0


def test_on_trial_a_tenant_that_has_failed_before_makes_no_pause_longer() -> None:
    worker = Worker()
    for number in range(5):
        worker.ended(f"d{number}", FAILURE, tenant=f"t{number}")
    worker.passes(10.1)
    for number in range(20):
        worker.ended(f"e{number}", FAILURE, tenant=f"t{number % 5}")
        assert worker.holds.threads == 1
        worker.passes(10.1)
    # Another tenant's job is next, and tells.
    worker.ended("f", Succeeded(), tenant="t9")
    assert worker.holds.threads is None


def test_a_worker_that_finds_something_wrong_with_itself_pauses_whosever_jobs_fail() -> None:
    worker = Worker()
    worker.problem = "Nothing can be written to /work."
    for number in range(4):
        worker.ended(f"d{number}", FAILURE, tenant="t")
    assert worker.holds.threads is None
    worker.ended("d4", FAILURE, tenant="t")
    assert worker.holds.threads == 0
    assert "Nothing can be written to /work." in worker.holds.reason
    worker.passes(10.1)
    assert worker.holds.threads == 1
    worker.ended("d5", FAILURE, tenant="t")
    assert worker.holds.threads == 0


def test_a_tenant_that_fails_all_the_time_has_a_worker_checked_now_and_then_only() -> None:
    worker = Worker()
    for number in range(100):
        worker.ended(f"d{number}", FAILURE, tenant="t")
    assert worker.checks == 1
    worker.passes(10.1)
    worker.ended("d100", FAILURE, tenant="t")
    assert worker.checks == 2
    assert worker.holds.threads is None
