"""Writers that crash, retry, lose answers and outlive their lease, against a model: whatever happens between any two
steps, the log is gapless, every line is in it at most once and in order, and what was flushed is in it."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from random import Random
from typing import Literal, LiteralString

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from schemas.logs import LogLine
from shared.db.database import Connection, Database, Parameters
from shared.db.rows import S
from shared.errors import LeaseLost, PlatformError, Unavailable
from shared.logs.capture.writer import LogWriter
from shared.logs.masking.redaction import Redactor
from shared.logs.store import PostgresLogStore
from tests.support.log_rows import RecordingNotifier, eventually, new_deployment, status

Fault = Literal["refused", "rolled back", "answer lost"]
FAULTS: tuple[Fault, ...] = ("refused", "rolled back", "answer lost")


class Process(Database):
    """A worker process's way to PostgreSQL: the next transactions fail as `faults` says, and all once it is dead."""

    def __init__(self, database: Database) -> None:  # a view of another one, with no pool of its own
        self._database = database
        self._lock = threading.Lock()
        self._running = 0
        self.faults: list[Fault] = []
        self.is_dead = False

    @contextmanager
    def transaction(self) -> Generator[Connection]:
        with self._lock:
            fault = self.faults.pop(0) if self.faults else None
            if fault == "refused" or self.is_dead:
                raise Unavailable("refused")
            self._running += 1
        try:
            with self._database.transaction() as connection:
                yield connection
                if fault == "rolled back":
                    raise Unavailable("The connection broke before COMMIT.")
            if fault == "answer lost":
                raise Unavailable("The answer to COMMIT was lost.")
        finally:
            with self._lock:
                self._running -= 1

    def fetch_one(self, row: type[S], query: LiteralString, parameters: Parameters | None = None) -> S | None:
        """Faults are kept for what writes."""
        if self.is_dead:
            raise Unavailable("refused")
        return self._database.fetch_one(row, query, parameters)

    def die(self) -> None:
        """Returns when none of its statements is running in the server either."""
        with self._lock:
            self.is_dead = True
        eventually(lambda: self._running == 0, seconds=120)


class Writer:
    """One writer of the model: what it was given, and how much of it must be in the log."""

    def __init__(self, database: Database, deployment: str, name: str, fence: int) -> None:
        self.fence = fence
        self.name = name
        self.process = Process(database)
        store = PostgresLogStore(self.process)
        self.given: list[str] = []
        self.promised = 0
        self.is_alive = True
        self.log = LogWriter(
            store, self.process, RecordingNotifier(), deployment, name, fence, Redactor([]), buffer_bytes=1 << 30
        )

    def write(self, count: int) -> None:
        lines = [f"{self.name} {number}" for number in range(len(self.given), len(self.given) + count)]
        self.given += lines
        self.log.write("stdout", "".join(f"{line}\n" for line in lines).encode())


class World:
    """A deployment, the writers that have had its log so far, and what may happen to them.

    Each step takes a number, which picks the living writer that it happens to, the latest ones rather.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._store = PostgresLogStore(database)
        self._deployment = new_deployment(database)
        self._writers: list[Writer] = []
        self._statuses = 0
        self._fence = 0
        self.take_over(0)

    def _pick(self, number: int) -> Writer | None:
        living = [writer for writer in self._writers if writer.is_alive][::-1]
        return living[max(0, number % (2 * len(living)) - len(living))] if living else None

    def _begin(self) -> None:
        name = f"w{len(self._writers)}"
        self._writers.append(Writer(self._database, self._deployment, name, self._fence))

    def take_over(self, _: int) -> None:
        """The queue gave the job to another worker; the one before it may not know yet."""
        self._fence += 1
        self._begin()

    def next_stage(self, _: int) -> None:
        """A second writer under the same lease, after the first."""
        if not self._writers[-1].is_alive:
            self._begin()

    def write(self, number: int) -> None:
        if writer := self._pick(number):
            writer.write((1, 2, 7, 1500)[number % 4])

    def fail(self, number: int) -> None:
        if writer := self._pick(number):
            writer.process.faults.append(FAULTS[number % 3])

    def flush(self, number: int) -> None:
        writer = self._pick(number)
        if writer is None:
            return
        try:
            writer.log.flush()
            writer.promised = len(writer.given)
        except LeaseLost:
            assert writer.fence < self._fence
            writer.is_alive = False

    def close(self, number: int) -> None:
        if writer := self._pick(number):
            self._close(writer)

    def _close(self, writer: Writer) -> None:
        writer.log.close()
        writer.is_alive = False
        if not writer.log.lost.is_set():
            writer.promised = len(writer.given)
        assert writer.fence < self._fence or writer.promised == len(writer.given)

    def die(self, number: int) -> None:
        """SIGKILL: what is buffered is gone, and a batch may be stored of which nobody was told."""
        if writer := self._pick(number):
            writer.process.die()
            with suppress(PlatformError):
                writer.log.close(timeout_seconds=0)
            writer.is_alive = False

    def change_status(self, _: int) -> None:
        """The API writes to the same log, under no lease."""
        with self._database.transaction() as connection:
            self._store.append(connection, self._deployment, [status()], fence=None)
        self._statuses += 1

    def end(self) -> None:
        for writer in self._writers:
            if writer.is_alive:
                self._close(writer)

    def check(self) -> None:
        entries = self._store.read(self._deployment, after=0, limit=10**6, maximum_bytes=1 << 30)
        assert [numbered.seq for numbered in entries] == list(range(1, len(entries) + 1))
        lines = [numbered.entry for numbered in entries if isinstance(numbered.entry, LogLine)]
        assert len(entries) - len(lines) == self._statuses
        fences = {writer.name: writer.fence for writer in self._writers}
        in_order = [fences[line.stage] for line in lines]
        assert in_order == sorted(in_order)
        for writer in self._writers:
            stored = [line.text for line in lines if line.stage == writer.name]
            assert stored == writer.given[: len(stored)]
            assert len(stored) >= writer.promised


STEPS = (
    *[World.write] * 6,
    *[World.fail] * 5,
    *[World.flush] * 3,
    *[World.take_over] * 2,
    *(World.die, World.next_stage, World.next_stage, World.close, World.change_status),
)


def test_the_log_of_writers_that_crash_retry_and_outlive_their_lease(database: Database) -> None:
    @settings(
        max_examples=16,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(seed=st.integers(0, 2**32))
    def run(seed: int) -> None:
        # Lists that hypothesis makes are mostly short and alike; these are not to be shrunk anyway.
        random = Random(seed)
        world = World(database)
        for _ in range(16):
            step = random.choice(STEPS)
            step(world, random.randrange(12))
        world.end()
        world.check()

    run()
