"""Whatever dies, stops, lies or forgets: no job is lost, none is finished twice, no slot leaks."""

from __future__ import annotations

import ast
import signal
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from schemas.messages import Job
from shared.queue.errors import QueueUnavailable
from shared.stack.ports import free_ports
from shared.stack.valkey import ValkeyServer
from tests.chaos.arena import LEASE_SECONDS, Account, Arena, arena_on, until
from tests.chaos.chaos_worker import STEPS
from tests.chaos.cutting_proxy import CuttingProxy

pytestmark = pytest.mark.chaos
NOTHING = Account(lost=0, duplicated=0, leaked=0)
PASSWORD = "x" * 32


def make_server(folder: Path, *, is_durable: bool) -> ValkeyServer:
    [port] = free_ports(1)
    return ValkeyServer(folder / "valkey", port=port, password=PASSWORD, is_durable=is_durable)


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    with arena_on(make_server(tmp_path, is_durable=False), tmp_path) as arena:
        yield arena


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_any_step(arena: Arena, step: str) -> None:
    once = arena.folder / "died"
    arena.load(40, ms=5)
    victim = arena.start(KILL_AT=step, KILL_ONCE=str(once))
    until(lambda: victim.poll() is not None, "the worker's death")
    assert (victim.returncode, once.exists()) == (-signal.SIGKILL, True)
    died = time.monotonic()
    arena.start()
    assert arena.settle() == NOTHING
    # What the dead one held came back within a lease and the next sweep; a loaded machine adds its own.
    assert time.monotonic() - died < LEASE_SECONDS + 10


def test_a_worker_that_is_killed_again_and_again(arena: Arena) -> None:
    arena.load(60, ms=20)
    for _ in range(3):
        victim = arena.start()
        begun = len(arena.lines("started"))
        until(lambda begun=begun: len(arena.lines("started")) > begun + 4, "some work")
        victim.kill()
        victim.wait()
    arena.start()
    assert arena.settle() == NOTHING


def test_a_worker_stopped_beyond_its_lease_is_refused(arena: Arena) -> None:
    arena.enqueue([arena.make("a", until=str(arena.folder / "go"))])
    sleeper = arena.start(threads=1)
    until(lambda: arena.lines("started"), "the start")
    sleeper.send_signal(signal.SIGSTOP)
    arena.start(threads=1)
    until(lambda: len(arena.lines("started")) == 2, "the second attempt")
    # The sleeper wakes and ends its attempt while the second one runs.
    (arena.folder / "go-1").touch()
    sleeper.send_signal(signal.SIGCONT)
    until(lambda: arena.lines("ended"), "the first one's end")
    # Only the sleeper has a thread for this: it asks for it together with its late finish, or after it.
    arena.enqueue([arena.make("probe")])
    until(lambda: arena.receipts().get("probe"), "another job of the sleeper's")
    assert "a" not in arena.receipts()
    (arena.folder / "go-2").touch()
    assert arena.settle() == NOTHING
    [first, second] = [line for line in arena.lines("started") if line[1] == "a"]
    assert int(first[3]) < int(second[3])
    assert arena.receipts()["a"] == {second[3]}


def test_redis_killed_and_started_with_its_data(tmp_path: Path) -> None:
    with arena_on(make_server(tmp_path, is_durable=True), tmp_path) as arena:
        arena.load(80, ms=20)
        arena.start()
        arena.start()
        for _ in range(2):
            finished = len(arena.receipts())
            until(lambda finished=finished: len(arena.receipts()) > finished + 5, "some work")
            restart(arena)
        assert arena.settle() == NOTHING


def test_redis_killed_and_started_without_its_data(arena: Arena) -> None:
    arena.load(80, ms=20)
    arena.start()
    arena.start()
    until(lambda: len(arena.receipts()) > 10, "some work")
    restart(arena)
    # As the reconciler: not before what ran has written down what it did.
    until(lambda: len(arena.lines("started")) == len(arena.lines("ended")) and arena.is_empty(), "the end of what ran")
    arena.refill()
    arena.refill()
    assert arena.settle() == NOTHING


def restart(arena: Arena) -> None:
    assert arena.server.process is not None
    arena.server.process.kill()
    arena.server.process.wait()
    arena.server.start()
    arena.server.wait()


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_that_are_lost(arena: Arena, seed: int) -> None:
    [port] = free_ports(1)
    proxy = CuttingProxy(port, arena.server.port, rate=0.05, seed=seed)
    url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
    try:
        arena.start(url=url)
        arena.start(url=url)
        arena.load(150, ms=2)
        assert arena.settle() == NOTHING
    finally:
        proxy.close()
    assert proxy.cuts >= 5


def test_redis_forgets_its_scripts_in_mid_run(arena: Arena) -> None:
    arena.load(80, ms=10)
    arena.start()
    for _ in range(15):
        finished = len(arena.receipts())
        arena.redis.script_flush()
        until(lambda finished=finished: len(arena.receipts()) > min(finished, 79), "progress")
    assert arena.settle() == NOTHING
    assert arena.attempts() == {1: 80}


def test_workers_whose_clocks_are_an_hour_wrong(arena: Arena) -> None:
    arena.start(SKEW_SECONDS="3600")
    arena.start(SKEW_SECONDS="-3600")
    arena.load(60, ms=60)
    assert arena.settle() == NOTHING
    assert arena.attempts() == {1: 60}


def test_no_part_of_the_queue_reads_this_hosts_clock() -> None:
    read = []
    for entry in resources.files("shared.queue").iterdir():
        if not entry.name.endswith(".py"):
            continue
        for node in ast.walk(ast.parse(entry.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("time", "time_ns", "now", "utcnow", "today"):
                read.append(f"{entry.name}:{node.lineno}")
    assert read == []


def test_ten_thousand_blocked_tenants_and_one_that_can_run(arena: Arena) -> None:
    arena.start()
    blocked = [arena.make(f"b{n}", tenant=f"blocked{n}", limit=0) for n in range(10_000)]
    assert arena.queue.enqueue_many(blocked) == 10_000
    for n in range(20):
        began = time.monotonic()
        arena.enqueue([arena.make(f"free{n}", tenant="free")])
        until(lambda n=n: arena.receipts().get(f"free{n}"), "the job that can run")
        assert time.monotonic() - began < 2.0
    for tenant in range(0, 10_000, 2500):
        assert arena.queue.find(f"b{tenant}") == "ready"
        assert arena.queue.running_set(f"blocked{tenant}") == set()
    [row] = arena.queue.stats()
    assert (row.depth, row.waiting_for_slot) == (10_000, 10_000)
    assert arena.queue.tenants_with_slots() == set()


def test_a_hundred_thousand_jobs_of_one_tenant_delay_nobody_else(arena: Arena) -> None:
    flood = [
        Job(id=f"f{n}", pool="chaos", actor="run", tenant_id="big", payload={"kind": "work", "ms": 50})
        for n in range(100_000)
    ]
    assert arena.queue.enqueue_many(flood) == 100_000
    arena.start(threads=2)
    until(lambda: len(arena.lines("started")) >= 6, "the flood")
    before = len(arena.lines("started"))
    arena.enqueue([arena.make("small", tenant="small")])
    until(lambda: any(line[1] == "small" for line in arena.lines("started")), "the other's job")
    order = [line[1] for line in arena.lines("started")]
    # Those that ran, those that were acquired already as their threads fell idle, and the other's turn.
    assert order.index("small") - before <= 4
    until(lambda: arena.receipts().get("small"), "its end")
    [row] = arena.queue.stats()
    assert row.depth + row.inflight + len(arena.receipts()) >= 99_000


def test_workers_that_are_replaced_one_after_the_other(arena: Arena) -> None:
    arena.load(90, ms=30)
    workers = [arena.start(threads=2) for _ in range(3)]
    for old in workers:
        arena.start(threads=2)
        old.send_signal(signal.SIGTERM)
        assert old.wait(20) == 0
    assert arena.settle() == NOTHING
    # Each finished what it ran and gave back what it hadn't begun: nothing was begun twice.
    assert arena.attempts() == {1: 90}


def test_an_enqueue_whose_answer_is_lost_may_be_repeated(arena: Arena) -> None:
    from shared.queue.connection import connect_redis
    from shared.queue.job_queue import RedisJobQueue

    [port] = free_ports(1)
    proxy = CuttingProxy(port, arena.server.port, rate=0.2, seed=3)
    try:
        with connect_redis(f"redis://:{PASSWORD}@127.0.0.1:{port}/0", timeout_seconds=1.0) as redis:
            queue = RedisJobQueue(redis)
            for n in range(40):
                job = arena.make(f"j{n:03}", tenant=f"t{n % 4}")
                arena.jobs.append(job)

                def sent(job: Job = job) -> bool:
                    try:
                        queue.enqueue(job)
                    except QueueUnavailable:
                        return False
                    return True

                until(sent, "an answer")
    finally:
        proxy.close()
    assert proxy.cuts >= 2
    assert arena.queue.stats()[0].depth == 40
    arena.start()
    assert arena.settle() == NOTHING
