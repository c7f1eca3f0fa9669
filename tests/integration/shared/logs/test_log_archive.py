"""Finished logs in the object store: moved whole, read as before, whatever happens in between."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from api.streams.log_channel import page_batch
from schemas.logs import LogEntry, LogLine, LogTruncated
from shared.errors import PlatformError, Unavailable
from shared.logs.archive.compactor import LogDamaged
from shared.logs.archive.store import ArchiveReader
from shared.logs.base import LogHead, NumberedEntry
from shared.logs.store import PostgresLogStore
from shared.settings import ObjectStoreSettings
from shared.storage.object_store import S3ArtifactStore
from tests.support.archive_world import ArchiveWorld, Crash, ObservedDatabase, line_pages, paged
from tests.support.artifact_stores import MemoryArtifactStore
from tests.support.log_rows import end, eventually, line, new_deployment, status, texts

pytestmark = pytest.mark.integration


@pytest.fixture
def world(database_url: str, tmp_path: Path) -> Iterator[ArchiveWorld]:
    world = ArchiveWorld(database_url, tmp_path)
    try:
        yield world
    finally:
        world.close()


def batches_of_every_kind(count: int, *, size: int = 40, width: int = 300) -> list[list[LogEntry]]:
    """So many batches; the middle ones are the build's. They end with the log's end."""
    generator = random.Random(count)
    batches: list[list[LogEntry]] = []
    for number in range(count):
        stage = "clone" if number < count // 4 else "build" if number < count * 3 // 4 else "deploy"
        batch: list[LogEntry] = [
            LogLine(
                timestamp=number, stage=stage, stream="stderr" if place % 5 == 0 else "stdout",
                text=f"{number}.{place} " + generator.randbytes(generator.randint(0, width // 2)).hex(),
                continued=place % 11 == 0,
            )
            for place in range(size)
        ]  # fmt: skip
        batches.append([status("building"), *batch] if number % 9 == 0 else batch)
    return [*batches, [LogTruncated(timestamp=1), status("ready"), end()]]


def test_reading_is_unchanged(world: ArchiveWorld) -> None:
    log = world.log(*batches_of_every_kind(150))
    options: list[dict[str, Any]] = [
        {"limit": limit, "stage": stage, "is_backward": is_backward}
        for limit, stage, is_backward in itertools.product((97, 1000), (None, "clone", "deploy", "none"), (False, True))
    ]

    def views(store: PostgresLogStore) -> list[object]:
        entries = list(paged(store, log, limit=1000))
        generator = random.Random(7)
        places = [(generator.randint(0, len(entries) + 2), generator.choice([1, 30, 500])) for _ in range(60)]
        pages = [store.read(log, after=after, limit=limit, maximum_bytes=20_000) for after, limit in places]
        ends = [
            store.read_lines(log, after=after, limit=5, is_backward=is_backward)
            for after in (0, 1, 2, len(entries), len(entries) + 1, 2**63 - 1)
            for is_backward in (False, True)
        ]
        lines = [line_pages(store, log, **chosen) for chosen in options]
        return [entries, pages, ends, lines, store.head(log), store.heads([log])]

    before = views(world.store)
    assert world.compactor.compact(log)
    assert world.chunks(log) == 0
    row = world.archive_row(log)
    assert row is not None
    assert len(world.memory.objects[row.object_key]) == row.size_bytes
    after = views(world.store)
    for was, is_now in zip(before, after, strict=True):
        assert is_now == was
    # Without a cache that is large enough for a single frame, too.
    assert (
        list(paged(PostgresLogStore(world.database, ArchiveReader(world.away, cache_bytes=1)), log, limit=1000))
        == (before[0])
    )


def test_a_hundred_thousand_entries_on_s3(
    world: ArchiveWorld, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> None:
    objects = S3ArtifactStore(object_store_settings)
    compactor = world.make_compactor(store=objects)
    log = world.log(*batches_of_every_kind(200, size=500, width=100))
    before = list(paged(world.store, log, limit=1000))
    assert len(before) > 100_000
    assert compactor.run_once() == 1
    store = PostgresLogStore(world.database, ArchiveReader(objects))
    assert list(paged(store, log, limit=1000)) == before
    backward = [numbered for page in line_pages(store, log, limit=1000, is_backward=True) for numbered in page.entries]
    lines = [numbered for numbered in before if isinstance(numbered.entry, LogLine | LogTruncated)]
    assert backward == lines[::-1]
    assert list(world.directory.iterdir()) == []


def test_nothing_follows_the_end_of_an_archived_log(world: ArchiveWorld) -> None:
    log = world.log([line("a"), end()])
    assert world.compactor.compact(log)
    world.append(log, line("late"))
    world.append(log, line("late"), fence=9, batch=1)
    assert world.store.head(log) == LogHead(2, is_closed=True)
    assert [numbered.seq for numbered in world.store.read(log, after=0, limit=9)] == [1, 2]
    assert not world.compactor.compact(log)


def test_a_crash_between_any_two_steps(world: ArchiveWorld) -> None:
    log = world.log(*batches_of_every_kind(70))
    expected = list(paged(world.store, log, limit=1000))
    crashes = 0
    for number in itertools.count():
        has_crashed = world.crash_at(number)
        try:
            world.compactor.compact(log)
        except Crash:
            crashes += 1
        assert list(paged(world.fresh_reader(), log, limit=1000)) == expected
        if not has_crashed():
            break
    # Two for each of: the head, two reads of chunks and the empty one, the upload, the read back, the switch.
    assert crashes == number >= 14
    assert world.is_archived(log)
    assert len(world.memory.objects) == 1
    assert list(world.directory.iterdir()) == []


def test_readers_at_every_step(world: ArchiveWorld) -> None:
    log = world.log(*batches_of_every_kind(140))
    expected = list(paged(world.store, log, limit=1000))
    backward = line_pages(world.store, log, limit=700, is_backward=True)
    steps: list[str] = []

    def read(step: str) -> None:
        steps.append(step)
        assert list(paged(world.fresh_reader(), log, limit=777)) == expected
        assert line_pages(world.fresh_reader(), log, limit=700, is_backward=True) == backward

    world.observe(read)
    assert world.compactor.compact(log)
    assert steps[-1] == "after transaction"


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_a_log_that_is_moved_in_the_middle_of_a_page(world: ArchiveWorld, database_url: str, moment: int) -> None:
    """Pages larger than a read of chunks: the rest comes from the object."""
    log = world.log(*([line(f"{number} {place}") for place in range(3)] for number in range(200)), [end()])
    expected = list(paged(world.store, log, limit=10_000))
    watched = ObservedDatabase(database_url)
    reader = PostgresLogStore(watched, ArchiveReader(world.away))
    for read in (
        lambda: reader.read(log, after=0, limit=10_000),
        lambda: [*reader.read_lines(log, after=None, limit=10_000, is_backward=True).entries[::-1], expected[-1]],
    ):
        seen = 0

        def move(step: str) -> None:
            nonlocal seen
            seen += step == "after transaction"
            if seen == moment:
                world.compactor.compact(log)

        watched.observe = move
        assert read() == expected
        assert world.is_archived(log)
        put_back(world, log)
    watched.close()


def put_back(world: ArchiveWorld, deployment_id: str) -> None:
    """An archived log as it was before, in chunks."""
    entries = list(paged(world.store, deployment_id, limit=100_000))
    with world.database.transaction() as connection:
        for table in ("log_archives", "log_heads"):
            connection.execute(f"DELETE FROM {table} WHERE deployment_id = %s", (deployment_id,))  # type: ignore[arg-type]
    for begin in range(0, len(entries), 3):
        world.append(deployment_id, *(numbered.entry for numbered in entries[begin : begin + 3]))


def test_concurrent_readers_see_every_entry_once(world: ArchiveWorld) -> None:
    logs = [world.log(*batches_of_every_kind(70, size=5, width=20)) for _ in range(12)]
    expected = {log: list(paged(world.store, log, limit=1000)) for log in logs}
    over = threading.Event()
    problems: list[BaseException] = []
    rounds = [0, 0, 0]

    def read(reader: int) -> None:
        try:
            while not over.is_set():
                for log in logs:
                    assert list(paged(world.store, log, limit=37 + reader * 100)) == expected[log]
                rounds[reader] += 1
        except BaseException as error:  # noqa: BLE001 - shown below
            problems.append(error)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(len(rounds))]
    for thread in threads:
        thread.start()
    try:
        assert world.compactor.run_once() == len(logs)
        done = list(rounds)
        eventually(lambda: bool(problems) or all(now > then for now, then in zip(rounds, done, strict=True)), 60)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert problems == []


# Failures of the object store.


def damage(objects: MemoryArtifactStore) -> None:
    for key, data in objects.objects.items():
        objects.objects[key] = data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


def lose(objects: MemoryArtifactStore) -> None:
    objects.objects.clear()


@pytest.mark.parametrize("spoil", [damage, lose])
def test_an_object_that_cannot_be_read_back_keeps_the_rows(world: ArchiveWorld, spoil: Any) -> None:
    log = world.log([line("a"), end()])
    world.observe(lambda step: spoil(world.memory) if step == "after put_file" else None)
    with pytest.raises(LogDamaged):
        world.compactor.compact(log)
    assert texts(world.store.read(log, after=0, limit=9)) == ["a"]
    assert not world.is_archived(log)
    world.observe(None)
    assert world.compactor.compact(log)
    assert texts(world.store.read(log, after=0, limit=9)) == ["a"]


def test_one_log_that_cannot_be_moved_does_not_hold_up_the_others(world: ArchiveWorld) -> None:
    broken = [world.log([line("a")], [line("b"), line("c")], [end()]) for _ in range(4)]
    good = world.log([line("good"), end()])
    changes = [
        "DELETE FROM log_chunks WHERE deployment_id = %s AND seq_from = 2",
        "DELETE FROM log_chunks WHERE deployment_id = %s AND seq_from = 4",
        "UPDATE log_chunks SET entries = '\\x00' WHERE deployment_id = %s AND seq_from = 2",
        "UPDATE log_chunks SET seq_to = 4 WHERE deployment_id = %s AND seq_from = 2",
    ]
    with world.database.transaction() as connection:
        for log, change in zip(broken, changes, strict=True):
            connection.execute(change.encode(), (log,))
    for age, log in enumerate([good, *broken]):
        world.age(log, age)
    assert world.compactor.run_once() == 1
    assert world.is_archived(good)
    for log in broken:
        assert not world.is_archived(log)
        assert world.chunks(log) > 0
    # Tried again, but not at once.
    mended = broken[3]
    with world.database.transaction() as connection:
        connection.execute("UPDATE log_chunks SET seq_to = 3 WHERE deployment_id = %s AND seq_from = 2", (mended,))
    assert world.compactor.run_once() == 0
    world.clock.advance(3600)
    assert world.compactor.run_once() == 1
    assert world.is_archived(mended)


def test_a_store_that_is_away_is_waited_for(world: ArchiveWorld) -> None:
    logs = [world.log([line(str(number)), end()]) for number in range(3)]
    world.stepping_store.is_away = True
    with pytest.raises(PlatformError):
        world.compactor.run_once()
    assert world.stepping_store.calls == ["put_file"], "after one failure the others aren't tried"
    for number, log in enumerate(logs):
        assert texts(world.store.read(log, after=0, limit=9)) == [str(number)]
    world.stepping_store.is_away = False
    world.clock.advance(3600)
    assert world.compactor.run_once() == 3


def test_reading_while_the_store_is_away_is_never_an_empty_page(world: ArchiveWorld) -> None:
    log = world.log(*batches_of_every_kind(150))
    expected = list(paged(world.store, log, limit=1000))
    assert world.compactor.compact(log)
    reader = world.fresh_reader()
    first = reader.read(log, after=0, limit=10)
    world.away.is_away = True
    assert reader.read(log, after=0, limit=10) == first, "what is known needs no store"
    for read in (
        lambda: list(paged(reader, log, limit=1000)),
        lambda: world.fresh_reader().read(log, after=0, limit=1),
        lambda: world.fresh_reader().read_lines(log, after=None, limit=1),
        lambda: world.fresh_reader().read_lines(log, after=None, limit=1, is_backward=True),
    ):
        with pytest.raises(Unavailable):
            read()
    assert reader.head(log) == LogHead(len(expected), is_closed=True)
    # Who asks again at once gets the same answer without a request, and one of many is made after a while.
    calls = len(world.away.calls)
    for advance, requests in ((0.0, 0), (1.9, 0), (0.2, 1), (0.0, 1), (2.1, 2)):
        world.clock.advance(advance)
        with pytest.raises(Unavailable):
            list(paged(reader, log, limit=1000))
        assert len(world.away.calls) == calls + requests
    world.clock.advance(5)
    world.away.is_away = False
    assert list(paged(reader, log, limit=1000)) == expected


def test_a_store_that_says_nothing_is_asked_by_one_reader_at_a_time(world: ArchiveWorld) -> None:
    log = world.log([line("a"), end()])
    assert world.compactor.compact(log)
    reader = world.fresh_reader()
    world.away.is_away = True
    with pytest.raises(Unavailable):
        reader.read(log, after=0, limit=1)
    world.clock.advance(3)
    asked, answered = threading.Event(), threading.Event()

    def hang(step: str) -> None:
        if step.startswith("before"):
            asked.set()
            assert answered.wait(120)

    world.away.observe = hang
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(reader.read, log, after=0, limit=1)
        assert asked.wait(120)
        calls = len(world.away.calls)
        try:
            for _ in range(3):
                world.clock.advance(3600)
                with pytest.raises(Unavailable):
                    reader.read(log, after=0, limit=1)
            assert len(world.away.calls) == calls
        finally:
            answered.set()
        assert isinstance(waiting.exception(120), Unavailable)
    world.away.observe, world.away.is_away = lambda _step: None, False
    world.clock.advance(3)
    assert texts(reader.read(log, after=0, limit=1)) == ["a"]


def test_an_object_that_is_gone_for_good_is_a_gap(world: ArchiveWorld) -> None:
    log = world.log([line("a"), line("b"), end()])
    assert world.compactor.compact(log)
    kept = dict(world.memory.objects)
    world.memory.objects.clear()
    reader = world.fresh_reader()
    assert reader.read(log, after=0, limit=9) == []
    assert reader.read_lines(log, after=None, limit=9).entries == []
    batch = page_batch(0, reader.read(log, after=0, limit=9), reader.head(log).last_seq)
    assert batch is not None
    assert batch.payload == b'id: 3\nevent: gap\ndata: {"from":1,"to":3,"reason":"retention"}\n\n'
    assert batch.cursor == 3
    # From a backup: nothing remembers that it was missing.
    world.memory.objects.update(kept)
    assert texts(reader.read(log, after=0, limit=9)) == ["a", "b"]


def test_a_damaged_frame_is_a_gap_between_the_others(world: ArchiveWorld) -> None:
    log = world.log(*batches_of_every_kind(150))
    expected = list(paged(world.store, log, limit=1000))
    assert world.compactor.compact(log)
    [key] = world.memory.objects
    data = world.memory.objects[key]
    world.memory.objects[key] = data[: len(data) // 2] + b"damaged" + data[len(data) // 2 + 7 :]
    found = list(paged(world.fresh_reader(), log, limit=1000))
    missing = [numbered.seq for numbered in expected if numbered not in found]
    assert missing == list(range(missing[0], missing[-1] + 1))
    assert 1 < missing[0] < missing[-1] < len(expected)
    assert found == [numbered for numbered in expected if numbered.seq not in range(missing[0], missing[-1] + 1)]
    backward: list[NumberedEntry] = []
    for page in line_pages(world.fresh_reader(), log, limit=1000, is_backward=True):
        backward += page.entries
    assert backward == [n for n in reversed(found) if isinstance(n.entry, LogLine | LogTruncated)]
    batch = page_batch(missing[0] - 1, world.fresh_reader().read(log, after=missing[0] - 1, limit=9), len(expected))
    assert batch is not None
    gap = f'id: {missing[-1]}\nevent: gap\ndata: {{"from":{missing[0]},"to":{missing[-1]},"reason":"retention"}}\n\n'
    assert batch.payload.startswith(gap.encode())
    # An index that is damaged leads nowhere.
    world.memory.objects[key] = data[:-1] + b"?"
    assert world.fresh_reader().read(log, after=0, limit=9) == []


def test_a_page_needs_few_requests(world: ArchiveWorld) -> None:
    log = world.log(*batches_of_every_kind(300, size=50))
    assert world.compactor.compact(log)
    reader = world.fresh_reader()
    reader.read(log, after=0, limit=10)
    assert world.away.calls == ["get_range"] * 2, "the index and a frame"
    short = world.log([line("short"), end()])
    assert world.compactor.compact(short)
    world.away.calls.clear()
    reader = world.fresh_reader()
    assert texts(reader.read(short, after=0, limit=10)) == ["short"]
    assert texts(reader.read_lines(short, after=None, limit=10, is_backward=True).entries) == ["short"]
    assert world.away.calls == ["get_range"], "all of it at once"
    world.away.calls.clear()
    size = len(next(iter(world.memory.objects.values())))
    entries = list(paged(reader, log, limit=100))
    frames = size // (128 * 1024)
    assert len(world.away.calls) < 2 + frames
    calls = len(world.away.calls)
    assert list(paged(reader, log, limit=100)) == entries
    assert len(world.away.calls) == calls, "a log of this size stays in memory"


# When logs are moved, and by which process.


def test_a_log_is_moved_some_time_after_its_end(world: ArchiveWorld) -> None:
    ended, older, oldest, going_on = world.log([end()]), world.log([end()]), world.log([end()]), world.log([line("a")])
    world.age(older, 90)
    with world.database.transaction() as connection:
        connection.execute("UPDATE log_heads SET closed_at = NULL WHERE deployment_id = %s", (oldest,))
    assert world.make_compactor(after_seconds=60.0).run_once() == 2
    assert [world.is_archived(log) for log in (ended, older, oldest, going_on)] == [False, True, True, False]
    assert world.compactor.run_once() == 1
    assert not world.compactor.compact(going_on)
    world.append(going_on, end())
    assert world.compactor.run_once() == 1


def test_the_oldest_come_first(world: ArchiveWorld) -> None:
    logs = [world.log([line("a"), end()]) for _ in range(5)]
    for age, log in enumerate(logs):
        world.age(log, age)
    order: list[str] = []
    world.observe(lambda step: order.extend(log for log in logs if world.is_archived(log) and log not in order))
    world.compactor.run_once()
    assert order == logs[::-1]


def test_one_compactor_at_a_time(world: ArchiveWorld, database_url: str) -> None:
    log = world.log([line("a"), end()])
    busy, free, stop = threading.Event(), threading.Event(), threading.Event()

    def hold(step: str) -> None:
        if step == "before put_file":
            busy.set()
            assert free.wait(60)

    world.observe(hold)
    tries: list[str] = []
    other_database, other_store = ObservedDatabase(database_url, tries.append), MemoryArtifactStore()
    other = world.make_compactor(
        database=other_database, store=other_store, directory=world.directory / "other", interval_seconds=0.01
    )
    first = threading.Thread(target=world.make_compactor(interval_seconds=0.01).run, args=(stop,))
    second = threading.Thread(target=other.run, args=(stop,))
    first.start()
    try:
        assert busy.wait(60)
        second.start()
        try:
            eventually(lambda: tries.count("after transaction") >= 3, 60)
            assert not world.is_archived(log)
            free.set()
            eventually(lambda: world.is_archived(log), 60)
        finally:
            stop.set()
            second.join()
    finally:
        stop.set()
        free.set()
        first.join()
        other_database.close()
    assert other_store.objects == {}


def test_two_compactors_that_do_not_know_of_each_other(world: ArchiveWorld) -> None:
    """As when the connection that holds the lock was lost."""
    log = world.log(*batches_of_every_kind(20))
    expected = list(paged(world.store, log, limit=1000))
    for moment in ("before put_file", "after put_file", "after get_file"):
        other = world.make_compactor(database=world.database, store=world.objects, directory=world.directory / moment)

        def interfere(step: str, moment: str = moment, other: Any = other) -> None:
            if step == moment:
                world.observe(None)
                assert other.compact(log)

        world.observe(interfere)
        world.compactor.compact(log)
        assert list(paged(world.fresh_reader(), log, limit=1000)) == expected
        assert len(world.memory.objects) == 1
        put_back(world, log)
        world.memory.objects.clear()


def test_a_stop_ends_a_pass_between_two_logs(world: ArchiveWorld) -> None:
    logs = [world.log([line("a"), end()]) for _ in range(3)]
    stop = threading.Event()
    world.observe(lambda step: stop.set() if step == "after put_file" else None)
    assert world.compactor.run_once(stop) == 1
    assert sum(world.is_archived(log) for log in logs) == 1


def test_what_a_crash_left_in_the_directory_is_removed(world: ArchiveWorld) -> None:
    (world.directory / "tmpabc").mkdir(parents=True)
    (world.directory / "tmpabc" / "log.zst").write_bytes(b"half")
    world.compactor.run_once()
    assert list(world.directory.iterdir()) == []


def test_objects_of_deployments_that_are_gone_are_swept(world: ArchiveWorld) -> None:
    kept, gone = world.log([line("kept"), end()]), world.log([line("gone"), end()])
    assert world.compactor.run_once() == 2
    world.memory.put_bytes("snapshots/ten_1/x/y.zst", b"of others")
    world.memory.put_bytes("logs/strange", b"of others")
    world.delete(gone)
    world.clock.advance(2 * 24 * 3600)
    assert world.compactor.run_once() == 0
    assert sorted(key for key in world.memory.objects if kept not in key) == ["logs/strange", "snapshots/ten_1/x/y.zst"]
    assert texts(world.fresh_reader().read(kept, after=0, limit=9)) == ["kept"]


def test_a_store_without_archives_says_so(world: ArchiveWorld) -> None:
    log = world.log([line("a"), end()])
    assert world.compactor.compact(log)
    with pytest.raises(RuntimeError, match="ArchiveReader"):
        PostgresLogStore(world.database).read(log, after=0, limit=1)
    assert PostgresLogStore(world.database).read(new_deployment(world.database), after=0, limit=1) == []
