"""Processes of a platform killed at random, the same way for the same seed as far as the machine's pace allows."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import psutil

from tests.support.running_platform import Platform, is_running, wait_for

API, REDIS, WORKER = "api", "valkey", "worker-build"
# A stage may be attempted six times. The supervisor starts what fails often after up to 10 s; a Redis that was away for
# so long, as after the sixth and the seventh kill, may cost an attempt too.
_WORKER_KILLS, _REDIS_KILLS = 3, 7
# The log grows by so much before the worker is killed again.
_WORTH_ENTRIES = 100


@dataclass(frozen=True, slots=True)
class Kill:
    role: str
    pid: int
    at_seconds: float
    stored: int


def plan_kills(seed: int, count: int) -> list[tuple[str, float]]:
    """Role and the seconds of rest before it. The worker's come in the first half: the build begins again each time,
    and its last run is to meet the others."""
    chooser = random.Random(seed)
    workers = min(_WORKER_KILLS, max(1, count // 6))
    others = count - workers
    redis = min(_REDIS_KILLS, others // 2)
    roles = [REDIS] * redis + [API] * (others - redis)
    chooser.shuffle(roles)
    for _ in range(workers):
        roles.insert(chooser.randrange(count // 2), WORKER)
    # Some at the same moment as the one before.
    return [(role, max(0.0, chooser.uniform(-0.5, 3.0))) for role in roles]


class Killer:
    """`stored` tells how far the log has got, `received` grows with what the clients get of it."""

    def __init__(self, platform: Platform, *, stored: Callable[[], int], received: Callable[[], int]) -> None:
        self.kills: list[Kill] = []
        self._platform = platform
        self._stored = stored
        self._received = received
        self._started = time.monotonic()
        self._stored_before = self._received_before = 0

    def run(self, plan: list[tuple[str, float]]) -> None:
        """In the plan's order, but for what isn't running again yet: the supervisor waits longer each time."""
        waiting = [role for role, _ in plan]
        for _, rest_seconds in plan:
            # Chance, not a wait for anything.
            time.sleep(rest_seconds)
            due = partial(self._due, waiting, is_at_once=rest_seconds == 0)
            role = wait_for(due, seconds=180, what=f"one of {set(waiting)} runs again and the log grows")
            assert role is not None
            self._kill(role)
            waiting.remove(role)

    def _due(self, waiting: list[str], *, is_at_once: bool) -> str | None:
        return next((role for role in dict.fromkeys(waiting) if self._is_due(role, is_at_once=is_at_once)), None)

    def _kill(self, role: str) -> None:
        pid = self._platform.kill(role)
        self._stored_before = self._stored()
        if role == API:
            self._received_before = self._received()
        kill = Kill(role, pid, time.monotonic() - self._started, self._stored_before)
        self.kills.append(kill)
        print(f"{kill.at_seconds:7.2f} s  {kill.role:12}  pid {kill.pid:<7}  at entry {kill.stored}", flush=True)

    def _is_due(self, role: str, *, is_at_once: bool) -> bool:
        """Whether it runs and its end interrupts something, which that of two at once need not."""
        pid = self._platform.pid(role)
        if any(kill.pid == pid for kill in self.kills) or not psutil.pid_exists(pid):
            return False
        if not is_running(process := psutil.Process(pid)):
            return False
        if role == WORKER:
            return bool(process.children(recursive=True)) and self._stored() >= self._stored_before + _WORTH_ENTRIES
        if is_at_once:
            return True
        return self._stored() > self._stored_before and (role != API or self._received() > self._received_before)
