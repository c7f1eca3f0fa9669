"""What becomes of a job, decided without a server."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest
from dramatiq.errors import Retry
from dramatiq.middleware import Shutdown

from schemas.messages import Job
from shared.backoff import Backoff
from shared.queue.dramatiq.idle_threads import IdleThreads
from shared.queue.dramatiq.lease import RunningLease, Settlement
from shared.queue.dramatiq.settlement import settlement_of
from shared.queue.dramatiq.work_queue import WorkQueue
from shared.queue.records import AcquiredJob, Disposition
from shared.signals import Signal


def lease(*, is_cancelled: bool = False, attempt: int = 1) -> RunningLease:
    job = Job(id="a", pool="clone", actor="run_stage", tenant_id="t", payload={}, max_attempts=3)
    return RunningLease(AcquiredJob(job, 7, attempt, is_cancelled), stopping=Signal())


def settled(
    held: RunningLease, error: BaseException | None, *, is_rejected: bool = False, **options: Any
) -> Settlement:
    return settlement_of(held, options, error, is_rejected=is_rejected, backoff=Backoff(2.0, 60.0))


def test_the_disposition_that_was_set_last_counts_whatever_was_raised() -> None:
    held = lease()
    held.retry(5)
    held.release(1)
    assert settled(held, ValueError()) == Settlement(Disposition.RELEASE, delay_seconds=1)


@pytest.mark.parametrize(
    ("error", "is_rejected", "options", "expected"),
    [
        (None, False, {}, Disposition.DONE),
        (None, True, {}, Disposition.DEAD),
        (ValueError(), False, {}, Disposition.RETRY),
        (ValueError(), True, {}, Disposition.DEAD),
        (ValueError(), False, {"throws": (ValueError,)}, Disposition.DEAD),
        (KeyError(), False, {"throws": ValueError}, Disposition.RETRY),
        (Shutdown(), False, {}, Disposition.RELEASE),
    ],
)
def test_without_a_disposition_the_error_decides(
    error: BaseException | None, is_rejected: bool, options: dict[str, Any], expected: Disposition
) -> None:
    assert settled(lease(), error, is_rejected=is_rejected, **options).disposition is expected


def test_a_cancelled_job_that_raises_is_not_run_again() -> None:
    assert settled(lease(is_cancelled=True), ValueError()).disposition is Disposition.DONE


def test_delays_double_up_to_the_most_and_an_explicit_one_is_kept() -> None:
    assert settled(lease(), Retry("later", delay=1500)).delay_seconds == 1.5
    for attempt, full in [(1, 2), (2, 4), (4, 16), (6, 60), (1000, 60)]:
        delays = [settled(lease(attempt=attempt), ValueError()).delay_seconds for _ in range(50)]
        assert full / 2 <= min(delays) <= max(delays) <= full
        assert len(set(delays)) > 1
    assert settled(lease(), ValueError(), min_backoff=100, max_backoff=100).delay_seconds <= 0.1


def test_idle_threads_are_taken_once_and_kept_for_a_pool_that_waits() -> None:
    idle = IdleThreads()
    told: list[str] = []
    assert idle.take_all("a", lambda: told.append("a")) == 0
    idle.resize(3)
    assert told == ["a"]
    assert idle.take_all("a", lambda: told.append("a")) == 3
    assert idle.take_all("b", lambda: told.append("b")) == 0
    idle.give_back(2)
    assert told == ["a", "b"]
    # One of the two is b's, however often a asks.
    assert idle.take_all("a", lambda: None) == 1
    assert idle.take_all("a", lambda: None) == 0
    idle.leave("a")
    assert idle.take_all("b", lambda: None) == 1
    assert (idle.busy, idle.total) == (3, 3)


def test_the_work_queue_is_first_in_first_out_and_joined_when_all_is_done() -> None:
    work = WorkQueue()
    with pytest.raises(queue.Empty):
        work.get(timeout=0)
    taken: list[int] = []

    def run() -> None:
        while (item := work.get(timeout=120)) >= 0:
            taken.append(item)
            work.task_done()

    threads = [threading.Thread(target=run) for _ in range(3)]
    for number in range(100):
        work.put(number)
    for thread in threads:
        thread.start()
    work.join()
    assert sorted(taken) == list(range(100))
    assert work.unfinished_tasks == 0
    for _ in threads:
        work.put(-1)
    for thread in threads:
        thread.join(120)
