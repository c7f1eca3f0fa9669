from __future__ import annotations

import threading

import pytest

from shared.background import BackgroundThread, PeriodicTask
from shared.backoff import Backoff

TIMEOUT_SECONDS = 30.0
NEVER = 3600.0


def test_a_thread_is_started_once_and_ends_at_once_when_stopped() -> None:
    started: list[threading.Event] = []
    is_running = threading.Event()

    def run(stopping: threading.Event) -> None:
        started.append(stopping)
        is_running.set()
        stopping.wait(NEVER)

    thread = BackgroundThread("test", run)
    assert thread.stop()
    thread.start()
    thread.start()
    assert is_running.wait(TIMEOUT_SECONDS)
    assert thread.stop(TIMEOUT_SECONDS)
    assert thread.stop(TIMEOUT_SECONDS)
    assert len(started) == 1
    thread.start()
    assert thread.stop(TIMEOUT_SECONDS)
    assert len(started) == 2


def test_stop_tells_that_a_thread_has_not_ended_in_time() -> None:
    may_end = threading.Event()
    thread = BackgroundThread("test", lambda _stopping: may_end.wait(TIMEOUT_SECONDS))
    thread.start()
    assert not thread.stop(0)
    may_end.set()
    assert thread.stop(TIMEOUT_SECONDS)


def test_a_thread_that_could_not_be_started_can_be_stopped_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    is_running = threading.Event()
    thread = BackgroundThread("test", lambda _stopping: is_running.set())
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            thread.start()
    assert thread.stop()
    thread.start()
    assert is_running.wait(TIMEOUT_SECONDS)
    assert thread.stop(TIMEOUT_SECONDS)


class Steps:
    """Counts the calls of a step; `outcomes` are what the first ones return or raise."""

    def __init__(self, *outcomes: float | Exception) -> None:
        self._outcomes = list(outcomes)
        self._called = threading.Semaphore(0)

    def step(self) -> float | None:
        self._called.release()
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def await_call(self) -> bool:
        return self._called.acquire(timeout=TIMEOUT_SECONDS)

    def was_called(self) -> bool:
        return self._called.acquire(blocking=False)


def test_a_task_repeats_its_step_after_the_seconds_that_it_returns() -> None:
    steps = Steps(0.0, 0.0, NEVER)
    task = PeriodicTask("test", steps.step, NEVER)
    task.start()
    assert all(steps.await_call() for _ in range(3))
    assert task.stop(TIMEOUT_SECONDS)
    assert not steps.was_called()


def test_a_waiting_task_is_woken_and_stopped_at_once() -> None:
    steps = Steps()
    task = PeriodicTask("test", steps.step, NEVER, waits_first=True)
    task.start()
    task.wake()
    assert steps.await_call()
    assert task.stop(TIMEOUT_SECONDS)
    assert not steps.was_called()


def test_a_stopped_task_waits_first_when_it_is_started_again() -> None:
    steps = Steps()
    task = PeriodicTask("test", steps.step, NEVER, waits_first=True)
    assert task.stop()
    for _ in range(2):
        task.start()
        assert task.stop(TIMEOUT_SECONDS)
    assert not steps.was_called()


def test_a_step_that_raises_is_repeated_after_the_delay_of_its_retry() -> None:
    steps = Steps(ValueError(), ValueError(), NEVER)
    task = PeriodicTask("test", steps.step, NEVER, retry=Backoff(0.001, 0.001))
    task.start()
    assert all(steps.await_call() for _ in range(3))
    assert task.stop(TIMEOUT_SECONDS)
