"""Writers, readers and the compactor in any order, with crashes and repeats, against a list in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.logs import LogEntry, LogLine, LogTruncated
from shared.errors import LeaseLost
from shared.logs.base import LogHead, NumberedEntry
from shared.logs.store import PostgresLogStore
from tests.support.archive_world import ArchiveWorld, Crash, line_pages
from tests.support.log_rows import end, line, status

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Write:
    """`lines` in one transaction, rolled back `rollbacks` times before and repeated `repeats` times afterwards."""

    lines: int
    width: int
    rollbacks: int
    repeats: int


@dataclass(frozen=True)
class TakeOver:
    """A new worker writes; the old one tries to."""

    lines: int


@dataclass(frozen=True)
class Read:
    reader: int


@dataclass(frozen=True)
class Compact:
    """Dies at the step of this number, None: at none. Every reader reads a page at every step if `is_watched`."""

    dies_at: int | None
    is_watched: bool


class End:
    """Of the log. Whatever is written afterwards is dropped."""

    def __repr__(self) -> str:
        return "End()"


writes = st.builds(
    Write,
    lines=st.integers(1, 30),
    width=st.sampled_from([0, 10, 3000, 30_000]),
    rollbacks=st.sampled_from([0, 0, 0, 1]),
    repeats=st.sampled_from([0, 0, 1, 2]),
)
reads = st.builds(Read, reader=st.integers(0, 2))
compactions = st.builds(Compact, dies_at=st.one_of(st.none(), st.integers(0, 16)), is_watched=st.booleans())
live = st.lists(st.one_of(writes, reads, st.builds(TakeOver, lines=st.integers(1, 3)), compactions), max_size=12)
finished = st.lists(st.one_of(compactions, reads, writes), max_size=8)


@dataclass
class Reader:
    store: PostgresLogStore
    deployment_id: str
    limit: int
    seen: list[NumberedEntry] = field(default_factory=list)

    def read(self, written: list[LogEntry]) -> int:
        """One page after what was seen: the next entries, and some when there are any. Returns how many."""
        cursor = len(self.seen)
        page = self.store.read(self.deployment_id, after=cursor, limit=self.limit)
        assert [numbered.seq for numbered in page] == list(range(cursor + 1, cursor + 1 + len(page)))
        assert [numbered.entry for numbered in page] == written[cursor : cursor + len(page)]
        assert page or cursor == len(written)
        assert len(page) <= self.limit
        self.seen += page
        return len(page)


class LogModel:
    """One log: what is in it, and what everybody has seen of it."""

    def __init__(self, world: ArchiveWorld) -> None:
        self.world = world
        self.id = world.log()
        self.written: list[LogEntry] = []
        self.is_closed = False
        self.fence, self.batch = 1, 0
        self.readers = [Reader(world.fresh_reader(), self.id, limit) for limit in (3, 100, 1000)]

    def perform(self, step: object) -> None:
        match step:
            case Write():
                self.write(step)
            case TakeOver():
                self.fence, self.batch = self.fence + 1, 0
                self.write(Write(step.lines, 5, 0, 0))
                with pytest.raises(LeaseLost):
                    self.world.append(self.id, line("of a zombie"), fence=self.fence - 1, batch=99)
            case Read():
                self.readers[step.reader].read(self.written)
            case Compact():
                self.compact(step)
            case End():
                self.add([status("ready"), end()], fence=None)
                self.is_closed = True
            case _:
                raise AssertionError(step)

    def write(self, step: Write) -> None:
        entries: list[LogEntry] = [line(f"{len(self.written) + n} " + "x" * step.width) for n in range(step.lines)]
        for _ in range(step.rollbacks):
            self.append_and_crash(entries)
        self.batch += 1
        self.add(entries, fence=self.fence)
        for _ in range(step.repeats):
            self.world.append(self.id, *entries, fence=self.fence, batch=self.batch)

    def add(self, entries: list[LogEntry], *, fence: int | None) -> None:
        self.world.append(self.id, *entries, fence=fence, batch=0 if fence is None else self.batch)
        if not self.is_closed:
            self.written += entries

    def append_and_crash(self, entries: list[LogEntry]) -> None:
        with pytest.raises(Crash), self.world.database.transaction() as connection:  # noqa: PT012 - the step as a whole
            self.world.store.append(connection, self.id, entries, fence=self.fence, batch=self.batch + 1)
            raise Crash

    def compact(self, step: Compact) -> None:
        numbers = itertools.count()

        def observe(_name: str) -> None:
            if step.is_watched:
                for reader in self.readers:
                    reader.read(self.written)
            if next(numbers) == step.dies_at:
                raise Crash

        self.world.observe(observe)
        try:
            is_moved = self.world.compactor.compact(self.id)
            assert not is_moved or self.is_closed
        except Crash:
            # Another process continues, without this one's memory.
            self.world.compactor = self.world.make_compactor()
        finally:
            self.world.observe(None)

    def check_the_end(self) -> None:
        for reader in self.readers:
            while reader.read(self.written):
                pass
            assert [numbered.entry for numbered in reader.seen] == self.written
        assert self.world.is_archived(self.id)
        assert self.world.chunks(self.id) == 0
        assert self.world.store.head(self.id) == LogHead(len(self.written), is_closed=True)
        lines = [entry for entry in self.written if isinstance(entry, LogLine | LogTruncated)]
        for is_backward, reader in itertools.product((False, True), self.readers):
            pages = line_pages(reader.store, self.id, limit=reader.limit, is_backward=is_backward)
            found = [numbered.entry for page in pages for numbered in page.entries]
            assert found == (lines[::-1] if is_backward else lines)


@pytest.fixture
def make_model(database_url: str, tmp_path: Path) -> Iterator[Callable[[], LogModel]]:
    world = ArchiveWorld(database_url, tmp_path)

    def make() -> LogModel:
        world.memory.objects.clear()
        world.compactor = world.make_compactor()
        return LogModel(world)

    yield make
    world.close()


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=live, after=finished)
def test_each_reader_sees_each_entry_once_and_in_order(
    make_model: Callable[[], LogModel], before: list[object], after: list[object]
) -> None:
    model = make_model()
    for step in [*before, End(), *after, Compact(dies_at=None, is_watched=True)]:
        model.perform(step)
    model.check_the_end()
    assert len(model.world.memory.objects) == 1
