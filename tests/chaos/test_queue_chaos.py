"""No job is lost or finished twice, and no slot leaks, when processes die, stop, have a wrong clock or lose data."""

from __future__ import annotations

import ast
import signal
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from schemas.messages import Job
from shared.queue.errors import QueueUnavailable
from shared.stack.valkey import ValkeyServer
from tests.chaos.arena import LONG_LEASE_SECONDS, TIMEOUT_SECONDS, Account, Arena, arena_on, until
from tests.chaos.chaos_worker import STEPS
from tests.chaos.cutting_proxy import CuttingProxy
from tests.support.ports import free_ports
from tests.support.queue_flood import enqueue_many

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


@pytest.fixture
def unhurried_arena(tmp_path: Path) -> Iterator[Arena]:
    """No lease of it expires because a process didn't get to run for a while: every job has one attempt."""
    server = make_server(tmp_path, is_durable=False)
    with arena_on(server, tmp_path, lease_seconds=LONG_LEASE_SECONDS) as arena:
        yield arena


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_at_any_step(arena: Arena, step: str) -> None:
    once = arena.folder / "died"
    arena.load(40, ms=5)
    victim = arena.start(KILL_AT=step, KILL_ONCE=str(once))
    until(lambda: victim.poll() is not None, "the worker's death")
    assert (victim.returncode, once.exists()) == (-signal.SIGKILL, True)
    arena.start()
    # The dead worker's jobs come back when their leases expire.
    assert arena.settle() == NOTHING


def test_a_worker_that_is_killed_again_and_again(arena: Arena) -> None:
    for n in range(3):
        arena.load(20, name=f"round{n}-", ms=20)
        arena.hold(f"held{n}")
        victim = arena.start()
        until(lambda n=n, victim=victim: arena.begun(f"held{n}", victim), "the held job")
        until(lambda victim=victim: arena.begun(process=victim) > 4, "some work")
        victim.kill()
        victim.wait()
        arena.release(f"held{n}")
    arena.start()
    assert arena.settle() == NOTHING
    assert all(arena.begun(f"held{n}") >= 2 for n in range(3))


def test_a_worker_stopped_beyond_its_lease_is_refused(arena: Arena) -> None:
    arena.enqueue([arena.make("a", until=str(arena.folder / "go"))])
    sleeper = arena.start(threads=1)
    until(lambda: arena.lines("started"), "the start")
    sleeper.send_signal(signal.SIGSTOP)
    # Only the sleeper's lease is to expire.
    arena.start(threads=1, lease_seconds=LONG_LEASE_SECONDS)
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
        arena.start()
        arena.start()
        for n in range(2):
            # One job runs from before the kill until after the start; of the others some are finished by then.
            arena.hold(f"held{n}")
            arena.load(40, name=f"round{n}-", ms=20)
            until(lambda n=n: arena.begun(f"held{n}"), "the held job")
            until(lambda n=n: arena.finished(f"round{n}-") > 5, "some work")
            restart(arena)
            arena.release(f"held{n}")
        assert arena.settle() == NOTHING


def test_redis_killed_and_started_without_its_data(arena: Arena) -> None:
    arena.start(threads=4)
    arena.start(threads=4)
    arena.hold("held")
    arena.load(80, ms=20)
    until(lambda: arena.begun("held"), "the held job")
    until(lambda: arena.finished("j") > 10, "some work")
    restart(arena)
    arena.release("held")
    # As the reconciler: not before what ran has written down what it did. Threads take a job when they are idle, so
    # once each has one of these the former jobs are over.
    arena.hold("barrier", 8)
    until(lambda: arena.begun("barrier") == 8, "the end of what ran")
    arena.release("barrier")
    until(lambda: arena.finished("barrier") == 8 and arena.is_empty(), "idle workers")
    # Paused: what was put back and finished in between would be put back again.
    arena.queue.pause("chaos")
    arena.refill()
    arena.refill()
    arena.queue.resume("chaos")
    assert arena.settle() == NOTHING


def restart(arena: Arena) -> None:
    assert arena.server.process is not None
    arena.server.process.kill()
    arena.server.process.wait()
    arena.server.start()
    arena.server.wait(TIMEOUT_SECONDS)


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_that_are_lost(arena: Arena, seed: int) -> None:
    proxy = CuttingProxy(arena.server.port, rate=0.05, seed=seed)
    url = f"redis://:{PASSWORD}@127.0.0.1:{proxy.port}/0"
    try:
        arena.start(url=url)
        arena.start(url=url)
        arena.load(150, ms=2)
        # How many round trips they take depends on how many finish together.
        while proxy.cuts < 5:
            name = f"more{len(arena.jobs)}-"
            arena.load(50, name=name, ms=2)
            until(lambda name=name: arena.finished(name) == 50, "more work")
        assert arena.settle() == NOTHING
    finally:
        proxy.close()


def test_redis_forgets_its_scripts_in_mid_run(unhurried_arena: Arena) -> None:
    arena = unhurried_arena
    arena.start()
    arena.load(80, ms=10)
    for n in range(15):
        arena.redis.script_flush()
        arena.load(4, name=f"round{n}-")
        arena.redis.script_flush()
        until(lambda n=n: arena.finished(f"round{n}-") == 4, "progress")
    assert arena.settle() == NOTHING
    assert arena.attempts() == {1: 140}


def test_workers_whose_clocks_are_an_hour_wrong(unhurried_arena: Arena) -> None:
    arena = unhurried_arena
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
    assert enqueue_many(arena.queue, blocked) == 10_000
    arena.redis.config_resetstat()
    for n in range(20):
        arena.enqueue([arena.make(f"free{n}", tenant="free")])
        until(lambda n=n: arena.receipts().get(f"free{n}"), "the job that can run")
    # Redis counts what scripts do, too: none of them looked at all the blocked ones, nor at every hundredth.
    calls = {name: row["calls"] for name, row in arena.redis.info("commandstats").items()}
    assert sum(calls.values()) < 100 * calls["cmdstat_evalsha"], calls
    # The receipt was written by a job that still had to be finished.
    until(lambda: not arena.queue.tenants_with_slots(), "its slot's return")
    for tenant in range(0, 10_000, 2500):
        assert arena.queue.find(f"b{tenant}") == "ready"
        assert arena.queue.running_set(f"blocked{tenant}") == set()
    [row] = arena.queue.stats()
    assert (row.depth, row.waiting_for_slot) == (10_000, 10_000)


def test_a_hundred_thousand_jobs_of_one_tenant_delay_no_other_tenant(unhurried_arena: Arena) -> None:
    arena = unhurried_arena
    payload = {"kind": "work", "ms": 50, "until": str(arena.folder / "go")}
    flood = [Job(id=f"f{n}", pool="chaos", actor="run", tenant_id="big", payload=payload) for n in range(100_000)]
    assert enqueue_many(arena.queue, flood) == 100_000
    arena.start(threads=2)
    until(lambda: arena.begun("f") == 2, "the flood")
    arena.enqueue([arena.make("small", tenant="small")])
    (arena.folder / "go").touch()
    until(lambda: arena.begun("small"), "the other's job")
    order = [line[1] for line in arena.lines("started")]
    # The two that ran, those that were acquired already as their threads fell idle, and the other's turn.
    assert order.index("small") <= 6
    until(lambda: arena.receipts().get("small"), "its end")
    [row] = arena.queue.stats()
    assert row.depth + row.inflight + len(arena.receipts()) >= 99_000


def test_workers_that_are_replaced_one_after_the_other(unhurried_arena: Arena) -> None:
    arena = unhurried_arena
    arena.load(90, ms=30)
    workers = [arena.start(threads=2) for _ in range(3)]
    for n, old in enumerate(workers):
        arena.start(threads=2)
        # Each of the four runs two that last until the old worker was told to stop, and more are waiting.
        arena.hold(f"held{n}", 12)
        until(lambda n=n: arena.begun(f"held{n}") == 8, "work in every worker")
        assert arena.begun(f"held{n}", old) == 2
        old.send_signal(signal.SIGTERM)
        arena.release(f"held{n}")
        assert old.wait(TIMEOUT_SECONDS) == 0
    assert arena.settle() == NOTHING
    # Each finished what it ran and gave back what it hadn't begun: nothing was begun twice.
    assert arena.attempts() == {1: 126}


def test_an_enqueue_whose_answer_is_lost_may_be_repeated(arena: Arena) -> None:
    from shared.queue.connection import connect_redis
    from shared.queue.job_queue import RedisJobQueue

    proxy = CuttingProxy(arena.server.port, rate=0.2, seed=3)
    try:
        with connect_redis(f"redis://:{PASSWORD}@127.0.0.1:{proxy.port}/0", timeout_seconds=1.0) as redis:
            queue = RedisJobQueue(redis)
            while len(arena.jobs) < 40 or proxy.cuts < 2:
                job = arena.make(f"j{len(arena.jobs):03}", tenant=f"t{len(arena.jobs) % 4}")
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
    assert arena.queue.stats()[0].depth == len(arena.jobs)
    arena.start()
    assert arena.settle() == NOTHING
