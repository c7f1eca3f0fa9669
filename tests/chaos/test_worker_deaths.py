"""Workers of one host that are killed, stopped or held: their jobs continue at once.

No lease is waited for: each is far longer than a test waits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared.errors import Unavailable
from shared.queue.base import WORKER_LOST
from shared.stack.disk_pulse import DiskPulse
from shared.stack.supervised import Supervised
from shared.stack.valkey import ValkeyServer
from shared.stack.worker_watch import WorkerWatch
from shared.worker_life import DeadWorkers, Verdict, WorkerLife, read_life, read_verdict, record_verdict
from tests.chaos.arena import PROGRAM, TIMEOUT_SECONDS, Account, Arena, arena_on, until
from tests.support.ports import free_ports

pytestmark = pytest.mark.chaos
NOTHING = Account(lost=0, duplicated=0, leaked=0)
LEASE_SECONDS = TIMEOUT_SECONDS * 5
# Long enough for a machine that is busy with others.
SILENCE_SECONDS = 8.0


class Host:
    """Supervised workers with one thread each, looked after as `cloudify up` does, on a thread of its own."""

    def __init__(self, arena: Arena, workers: int) -> None:
        self.lives = arena.folder / "lives"
        self.said: list[str] = []
        self.supervised = [Supervised(f"worker-{n}", lambda: self._launch(arena), log_path=arena.folder / "log")
                           for n in range(workers)]  # fmt: skip
        self._pulse = pulse = DiskPulse(self.lives / "supervisor.pulse")
        self._watch = WorkerWatch(
            self.lives, SILENCE_SECONDS, self.said.append, disk_answered_at=lambda: pulse.answered_at
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        for supervised in self.supervised:
            supervised.start()
        self._pulse.start()
        self._thread.start()

    def close(self) -> None:
        self._pulse.stop()
        self._stopped.set()
        self._thread.join()
        for supervised in self.supervised:
            supervised.kill()
            supervised.stop(0)

    def _launch(self, arena: Arena) -> subprocess.Popen[bytes]:
        arguments = [arena.server.url, str(arena.ledger), str(LEASE_SECONDS), "1"]
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            env={**os.environ, "LIVES": str(self.lives)}, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def _run(self) -> None:
        while not self._stopped.wait(0.1):
            for supervised in self.supervised:
                supervised.ended()
                if supervised.is_due():
                    supervised.start()
            self._watch.look(self.supervised)


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    [port] = free_ports(1)
    server = ValkeyServer(tmp_path / "valkey", port=port, password="x" * 32, is_durable=False)
    with arena_on(server, tmp_path, lease_seconds=LEASE_SECONDS) as arena:
        yield arena


@pytest.fixture
def host(arena: Arena) -> Iterator[Host]:
    host = Host(arena, 1)
    yield host
    host.close()


def started(arena: Arena, job_id: str) -> list[int]:
    """The processes that began the job."""
    return [int(line[4]) for line in arena.lines("started") if line[1] == job_id]


def test_a_killed_workers_job_runs_again_without_its_lease(arena: Arena, host: Host) -> None:
    arena.enqueue([arena.make("a", until=str(arena.folder / "go"))])
    for deaths in range(1, 4):
        # From outside, as often as it may be: this doesn't speak against the job.
        until(lambda deaths=deaths: len(started(arena, "a")) == deaths, "the attempt")
        os.kill(started(arena, "a")[-1], signal.SIGKILL)
    until(lambda: len(started(arena, "a")) == 4, "the last attempt")
    (arena.folder / "go").touch()
    assert arena.settle() == NOTHING


def test_a_stopped_worker_is_replaced(arena: Arena, host: Host) -> None:
    arena.enqueue([arena.make("a", until=str(arena.folder / "go"))])
    [first] = until(lambda: started(arena, "a"), "the first attempt")
    os.kill(first, signal.SIGSTOP)
    until(lambda: len(started(arena, "a")) == 2, "the second attempt")
    (arena.folder / "go").touch()
    assert arena.settle() == NOTHING
    assert len(host.said) == 1


def test_a_job_that_holds_two_workers_takes_no_third(arena: Arena, host: Host) -> None:
    assert arena.queue.enqueue(arena.make("poison", kind="poison"))
    arena.enqueue([arena.make("next")])
    until(lambda: arena.queue.death_reason("poison"), "the job's end")
    assert arena.queue.death_reason("poison") == WORKER_LOST
    until(lambda: arena.receipts().get("next"), "the next job")
    assert len(started(arena, "poison")) == 2
    assert arena.queue.running_set("t1") == set()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Supervised]:
    """A process whose sign of life never changes."""
    program = (
        "import os, pathlib, signal, sys, time\n"
        "from shared.worker_life import WorkerLife\n"
        "WorkerLife(pathlib.Path(sys.argv[1]), 'silent', 'chaos').start()\n"
        "os.kill(os.getpid(), signal.SIGSTOP)\n"
        "time.sleep(600)\n"
    )
    supervised = Supervised(
        "worker-silent",
        lambda: subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]),
        log_path=tmp_path / "log",
    )
    supervised.start()
    until((tmp_path / "silent.life").exists, "its sign of life")
    # A SIGCONT that arrives before would be lost.
    until(lambda: psutil.Process(supervised.pid).status() == psutil.STATUS_STOPPED, "it is stopped")
    yield supervised
    supervised.kill()
    supervised.stop(0)


def test_a_supervisor_that_was_stopped_waits_a_whole_interval_before_it_ends_workers(
    tmp_path: Path, silent: Supervised
) -> None:
    clock, said = Clock(), list[str]()
    watch = WorkerWatch(tmp_path, 30.0, said.append, disk_answered_at=clock, monotonic=clock)

    def watch_for(seconds: int) -> None:
        for _ in range(seconds):
            clock.now += 1
            watch.look([silent])

    watch_for(29)
    clock.now += 3600
    watch.look([silent])
    watch_for(29)
    assert said == []
    assert read_verdict(tmp_path / "silent.life") is None
    watch_for(1)
    assert len(said) == 1
    assert read_verdict(tmp_path / "silent.life") is Verdict.HEARTBEAT
    assert until(silent.ended, "its end") == "killed by SIGKILL"


def test_no_worker_is_ended_while_the_disk_takes_no_write(tmp_path: Path, silent: Supervised) -> None:
    clock, said = Clock(), list[str]()
    answered_at = clock.now
    watch = WorkerWatch(tmp_path, 30.0, said.append, disk_answered_at=lambda: answered_at, monotonic=clock)
    for _ in range(120):
        clock.now += 1
        watch.look([silent])
    for _ in range(29):
        answered_at = clock.now = clock.now + 1
        watch.look([silent])
    assert said == []
    answered_at = clock.now = clock.now + 1
    watch.look([silent])
    assert len(said) == 1


def test_a_disk_has_a_pulse_while_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stalled, asked = threading.Event(), threading.Event()
    pulse = DiskPulse(tmp_path / "lives" / "pulse")
    first = pulse.answered_at
    pulse.start()
    until(lambda: pulse.answered_at > first, "a write")

    def stall(*_arguments: object) -> int:
        asked.set()
        stalled.wait()
        raise OSError("full")

    monkeypatch.setattr(os, "pwrite", stall)
    assert asked.wait(TIMEOUT_SECONDS)
    last = pulse.answered_at
    assert not stalled.wait(0.1)
    assert pulse.answered_at == last
    stalled.set()
    until(lambda: pulse.answered_at > last, "an answer, if only that it is full")
    pulse.stop()


def test_a_process_that_is_not_supervised_is_never_ended(tmp_path: Path, silent: Supervised) -> None:
    clock, said = Clock(), list[str]()
    watch = WorkerWatch(tmp_path, 3.0, said.append, disk_answered_at=clock, monotonic=clock)
    for _ in range(20):
        clock.now += 1
        watch.look([])
    assert (said, silent.ended()) == ([], None)


def test_a_verdict_outlives_the_supervisor_and_a_queue_that_is_away(tmp_path: Path, silent: Supervised) -> None:
    told: list[tuple[str, str, bool]] = []
    answers: Iterator[Exception | None] = iter([Unavailable("away"), None])

    def hand_back(pool: str, worker: str, counts: bool) -> None:
        told.append((pool, worker, counts))
        if (error := next(answers)) is not None:
            raise error

    dead = DeadWorkers(tmp_path, WorkerLife(tmp_path, "mine", "chaos"), hand_back)
    path = tmp_path / "silent.life"
    dead.look()
    assert told == []  # it lives, however silent
    assert read_life(path) is not None
    record_verdict(path, Verdict.HEARTBEAT, path.stat().st_mtime_ns)
    silent.kill()
    until(silent.ended, "its end")
    with pytest.raises(Unavailable):
        dead.look()
    dead.look()
    dead.look()
    assert told == [("chaos", "silent", True)] * 2
    assert list(tmp_path.glob("silent*")) == []


def test_a_worker_that_lived_on_after_its_verdict_died_of_something_else(tmp_path: Path, silent: Supervised) -> None:
    told: list[bool] = []
    dead = DeadWorkers(tmp_path, WorkerLife(tmp_path, "mine", "chaos"), lambda _p, _w, counts: told.append(counts))
    path = tmp_path / "silent.life"
    # Its supervisor died after the first and before the second of these two.
    record_verdict(path, Verdict.HEARTBEAT, path.stat().st_mtime_ns)
    os.kill(silent.pid or 0, signal.SIGCONT)
    until(lambda: read_verdict(path) is None, "a beat")
    silent.kill()
    until(silent.ended, "its end")
    dead.look()
    assert told == [False]
    assert list(tmp_path.glob("silent*")) == []


def test_files_that_are_no_longer_needed_are_deleted(tmp_path: Path) -> None:
    def hand_back(_pool: str, _worker: str, _counts: bool) -> None: ...

    life = WorkerLife(tmp_path, "mine", "chaos")
    life.start()
    record_verdict(life.path, Verdict.HEARTBEAT, life.path.stat().st_mtime_ns)
    dead = DeadWorkers(tmp_path, life, hand_back)
    for name in ("a.partial", "b.verdict", "c.verdict.partial", "new.partial"):
        (tmp_path / name).touch()
    for path in tmp_path.iterdir():
        if path.stem not in ("new", "mine") or path.suffix == ".verdict":
            os.utime(path, (0, 0))
    dead.look()
    assert {path.name for path in tmp_path.iterdir()} == {"mine.life", "mine.verdict", "new.partial"}
    life.stop()
    assert {path.name for path in tmp_path.iterdir()} == {"new.partial"}


COUNTERS = {"2": ("0::", ".", "memory.events.local"), "1": ("5:cpu,memory:", "memory", "memory.oom_control")}


@pytest.mark.parametrize("version", COUNTERS)
def test_memory_kills_are_counted_where_the_worker_is_now(tmp_path: Path, version: str) -> None:
    prefix, root, counter = COUNTERS[version]
    membership, mount = tmp_path / "cgroup", tmp_path / "mount"
    groups = {"": 1, "/own": 3, "/own/cloudify-worker": 5}
    for group, kills in groups.items():
        file = mount / root / group.lstrip("/") / counter
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"oom 9\noom_kill {kills}\n")
    membership.write_text(f"{prefix}/own\n")
    life = WorkerLife(tmp_path / "lives", "mine", "chaos", membership=membership, mount=mount)
    life.start()

    def counted() -> int | None:
        found = read_life(life.path)
        return found.memory.kills if found and found.memory else None

    assert counted() == 3
    # The executor moves the process; in a container its path isn't to be seen.
    for group, kills in (("/own/cloudify-worker", 5), ("/docker/4f", 1)):
        membership.write_text(f"{prefix}{group}\n")
        until(lambda kills=kills: counted() == kills, "the group's own number")
    life.stop()


@pytest.mark.parametrize(("is_same_file", "kills", "counts"), [(True, 4, True), (True, 3, False), (False, 4, False)])
def test_only_the_workers_own_counter_speaks_against_its_job(
    tmp_path: Path, is_same_file: bool, kills: int, counts: bool
) -> None:
    membership, counter = tmp_path / "cgroup", tmp_path / "memory.events.local"
    membership.write_text("0::/\n")
    counter.write_text("oom_kill 3\n")
    program = (
        "import os, pathlib, sys\n"
        "from shared.worker_life import WorkerLife\n"
        "here = pathlib.Path(sys.argv[1])\n"
        "WorkerLife(here, 'gone', 'chaos', membership=here / 'cgroup', mount=here).start()\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    if not is_same_file:
        counter.rename(tmp_path / "former")
    counter.write_text(f"oom_kill {kills}\n")
    told: list[bool] = []
    DeadWorkers(tmp_path, WorkerLife(tmp_path, "mine", "chaos"), lambda _p, _w, counts: told.append(counts)).look()
    assert told == [counts]
