"""The comparison of a machine's clock with the servers'."""

from __future__ import annotations

from collections.abc import Callable

from shared.clock_guard import ClockGuard
from shared.errors import Unavailable
from tests.support.manual_clock import ManualClock


class Machine:
    """A machine whose wall clock can be set, and two servers."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.truth = self.clock.now().timestamp()
        self.offsets: dict[str, float | None] = {"PostgreSQL": 0.0, "Redis": 0.0}
        self.told: list[str | None] = []
        self.asked = 0
        servers = {name: self._server(name) for name in self.offsets}
        self.guard = ClockGuard(servers, on_change=self.told.append, clock=self.clock)

    def _server(self, name: str) -> Callable[[], float]:
        def read() -> float:
            self.asked += 1
            offset = self.offsets[name]
            if offset is None:
                raise Unavailable("It does not answer.")
            return self.truth + offset

        return read

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.truth += seconds

    def set_clock(self, seconds: float) -> None:
        """The wall clock jumps; the monotonic one does not."""
        monotonic = self.clock.monotonic()
        self.clock.advance(seconds)
        self.clock._monotonic = monotonic  # pyright: ignore[reportPrivateUsage]


def test_a_clock_that_is_off_is_told_once_and_so_is_its_correction() -> None:
    machine = Machine()
    assert machine.guard.compare() is None
    machine.set_clock(3600)
    machine.guard.look()
    problem = machine.guard.problem
    assert problem is not None
    assert "3600 s ahead of PostgreSQL's and 3600 s ahead of Redis's" in problem
    machine.guard.look()
    machine.set_clock(-3600)
    machine.guard.look()
    assert machine.guard.problem is None
    assert machine.told == [problem, None]


def test_servers_are_asked_every_minute_and_at_once_after_the_clock_was_set() -> None:
    machine = Machine()
    machine.guard.compare()
    asked = machine.asked
    for _ in range(59):
        machine.pass_time(1)
        machine.guard.look()
    assert machine.asked == asked
    machine.set_clock(-5)
    machine.guard.look()
    assert machine.asked == asked + 2
    assert machine.guard.problem is None


def test_of_two_servers_that_disagree_the_one_that_agrees_with_the_machine_is_right() -> None:
    machine = Machine()
    machine.offsets["PostgreSQL"] = -3600.0
    assert machine.guard.compare() is None
    machine.offsets["Redis"] = None
    assert machine.guard.compare() is not None


def test_the_last_answer_stands_while_no_server_answers() -> None:
    machine = Machine()
    machine.set_clock(-100)
    problem = machine.guard.compare()
    assert problem is not None
    machine.offsets = {"PostgreSQL": None, "Redis": None}
    assert machine.guard.compare() == problem


def test_what_an_answer_took_is_not_counted() -> None:
    clock = ManualClock()

    def slow() -> float:
        clock.advance(90)
        return clock.now().timestamp()

    guard = ClockGuard({"PostgreSQL": slow}, clock=clock)
    assert guard.compare() is None
