"""Writes the log of one attempt of a stage: masks and stores raw output as lines in order, and wakes watchers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Literal, Self

from schemas.logs import LogEntry, Stream
from shared.backoff import Backoff
from shared.clock import Clock, SystemClock, unix_milliseconds
from shared.db.database import Database
from shared.errors import LeaseLost, NotFound, PlatformError, Unavailable
from shared.logs.base import Notifier
from shared.logs.capture.batch_appender import BatchAppender, BatchStore
from shared.logs.capture.line_buffer import LineBuffer, LineGroup, group_lines
from shared.logs.capture.splitter import LineSplitter, SplitLine
from shared.logs.masking.redaction import Redactor
from shared.logs.store import Appended
from shared.signals import Signal

_logger = logging.getLogger(__name__)

# Above it, `write` blocks: a build that is faster than the store is slowed, and memory stays bounded.
_BUFFER_BYTES = 1024 * 1024
_RETRY = Backoff(0.1, 2.0, jitter=0.0)
# How long an outage of PostgreSQL may last before a stage fails for its log.
_OUTAGE_SECONDS = 60.0


class LogWriter:
    """A StageLog. Safe from any thread; its own thread stores the lines.

    `fence` is the token of the lease under which the stage runs. If a later one has written, or the deployment has been
    deleted, `lost` is set, `on_lost` is called once (on the writer's thread), and further lines are dropped. While
    PostgreSQL is down, the current batch is retried under the same number, and `write` blocks once 1 MiB is buffered.

    Call `close` before the stage's result is recorded: only then is everything stored. One writer at a time may use a
    fence; a second one after it continues with its batch numbers.
    """

    def __init__(
        self,
        store: BatchStore,
        database: Database,
        notifier: Notifier,
        deployment_id: str,
        stage: str,
        fence: int,
        redactor: Redactor,
        clock: Clock | None = None,
        *,
        on_lost: Callable[[], None] | None = None,
        buffer_bytes: int = _BUFFER_BYTES,
    ) -> None:
        self.lost = Signal()
        self._notifier = notifier
        self._deployment_id = deployment_id
        self._stage = stage
        self._appender = BatchAppender(store, database, deployment_id, fence)
        self._redactor = redactor
        self._clock = clock or SystemClock()
        self._on_lost = on_lost
        self._buffer_bytes = buffer_bytes
        # Guards the splitters. Held while a write waits for space, so that lines stay in order.
        self._input = threading.Lock()
        self._splitters: dict[Stream, LineSplitter] = {
            "stdout": LineSplitter(redactor.stream()),
            "stderr": LineSplitter(redactor.stream()),
        }
        # Guards the fields below. Notified when lines arrive, when lines have been stored, and when the writer ends.
        self._state = threading.Condition()
        self._waiting = LineBuffer()
        self._flushes = 0
        self._is_closing = False
        self._is_abandoned = False
        self._is_full = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """See StageLog. Blocks while the buffer is full."""
        if self._is_full:
            return
        with self._input:
            self._enqueue(stream, self._splitters[stream].feed(data))

    def system(self, text: str) -> None:
        """See StageLog. Ends lines in progress first, so that a command's last output comes before this line."""
        splitter = LineSplitter()
        masked = self._redactor.mask(text)
        lines = splitter.feed(masked.encode(errors="replace")) + splitter.flush()
        if not self._input.acquire(timeout=_OUTAGE_SECONDS):
            # Output has been waiting for space all this time; `close` will raise.
            _logger.warning("A line of the log of %s is dropped: the database does not answer.", self._deployment_id)
            return
        try:
            for stream, output in self._splitters.items():
                self._enqueue(stream, output.end_partial_line(), may_wait=False)
            self._enqueue("system", lines, may_wait=False)
        finally:
            self._input.release()

    def flush(self, timeout_seconds: float = _OUTAGE_SECONDS) -> None:
        """Returns when everything is stored. Raises LeaseLost, or PlatformError after the timeout.

        It ends lines in progress, so call it only when no command runs: if only the first half of a secret had arrived,
        that half would not be masked.
        """
        self._end_lines(timeout_seconds)
        with self._state:
            self._flushes += 1
            self._state.notify_all()
            is_done = self._state.wait_for(lambda: not self._waiting or self._is_ended, timeout_seconds)
            self._flushes -= 1
            is_done = is_done and not self._waiting
        if self.lost.is_set():
            raise LeaseLost(f"A later worker writes the log of {self._deployment_id}.")
        if not is_done:
            raise PlatformError("The log could not be stored; the database does not answer.")

    def close(self, timeout_seconds: float = _OUTAGE_SECONDS) -> None:
        """Stores the rest, including an unfinished last line, and ends the thread. May be called twice.

        Raises PlatformError if that takes longer than the timeout; the stage must not be recorded as done then. For a
        lost lease nothing is raised: check `lost`.
        """
        try:
            self._end_lines(timeout_seconds)
        except PlatformError:
            self._abandon()
            raise
        with self._state:
            self._is_closing = True
            self._state.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout_seconds)
        with self._state:
            is_lost_line = bool(self._waiting) and not self.lost.is_set()
        self._abandon()
        if is_lost_line:
            raise PlatformError("The log could not be stored; the database does not answer.")

    @property
    def _is_ended(self) -> bool:
        return self._is_abandoned or self.lost.is_set()

    def _end_lines(self, timeout_seconds: float) -> None:
        if not self._input.acquire(timeout=timeout_seconds):
            # A write still waits for space.
            raise PlatformError("The log could not be stored; the database does not answer.")
        try:
            for stream, splitter in self._splitters.items():
                self._enqueue(stream, splitter.flush(), may_wait=False)
        finally:
            self._input.release()

    def _abandon(self) -> None:
        with self._state:
            self._is_abandoned = True
            self._waiting.clear()
            self._state.notify_all()

    def _enqueue(self, stream: Stream, lines: list[SplitLine], *, may_wait: bool = True) -> None:
        if not lines:
            return
        timestamp = unix_milliseconds(self._clock.now())
        for group in group_lines(lines, timestamp=timestamp, stage=self._stage, stream=stream):
            with self._state:
                # Small amounts (the platform's own lines, the last lines) don't wait for space.
                if may_wait and self._waiting.memory >= self._buffer_bytes:
                    self._state.wait_for(lambda: self._waiting.memory < self._buffer_bytes or self._is_closed)
                if self._is_closed:
                    return
                self._add(group)

    @property
    def _is_closed(self) -> bool:
        """Whether further lines are dropped."""
        return self._is_ended or self._is_closing or self._is_full

    def _add(self, group: LineGroup) -> None:
        was_empty, was_large = not self._waiting, self._waiting.is_large
        self._waiting.append(group, self._clock.monotonic())
        if self._thread is None:
            name = f"log-{self._deployment_id}-{self._stage}"
            self._thread = threading.Thread(target=self._run, name=name, daemon=True)
            self._thread.start()
        if was_empty or (self._waiting.is_large and not was_large):
            self._state.notify_all()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            appended = self._store_with_retries([line for group in batch for line in group.lines])
            if appended is None:
                return
            self._remove(batch, is_full=appended.is_full)
            self._notifier.notify(self._deployment_id, appended.first, appended.last, appended.entries)

    def _store_with_retries(self, entries: Sequence[LogEntry]) -> Appended | None:
        """Repeats until the batch is stored. Returns None if the writer was abandoned or has lost its lease."""
        failures = 0
        while True:
            try:
                return self._appender.append(entries)
            except (LeaseLost, NotFound):
                self._lose()
                return None
            except Exception as error:
                # No error may lose the lines of this batch.
                if not isinstance(error, Unavailable):
                    _logger.exception("A batch of the log of %s could not be stored.", self._deployment_id)
                failures += 1
                if not self._pause(failures):
                    return None

    def _next_batch(self) -> list[LineGroup] | None:
        """Waits until a batch is due. Returns None at the end. The batch stays in the buffer until it is stored."""
        with self._state:
            while True:
                if self._is_ended or (self._is_closing and not self._waiting):
                    return None
                delay = self._due_in()
                if delay is not None and delay <= 0:
                    return self._waiting.batch()
                self._state.wait(delay)

    def _due_in(self) -> float | None:
        due_at = self._waiting.due_at()
        if due_at is None:
            return None
        if self._is_closing or self._flushes or self._waiting.is_large:
            return 0.0
        return due_at - self._clock.monotonic()

    def _remove(self, batch: list[LineGroup], *, is_full: bool) -> None:
        with self._state:
            if self._is_ended:
                return
            self._waiting.remove(batch, self._clock.monotonic())
            if is_full:
                # Further lines would not be stored.
                self._is_full = True
                self._waiting.clear()
            self._state.notify_all()

    def _pause(self, failures: int) -> bool:
        """Waits before the next attempt. Returns False if the writer was abandoned or has lost its lease."""
        with self._state:
            self._state.wait_for(lambda: self._is_ended, _RETRY.delay_seconds(failures))
            return not self._is_ended

    def _lose(self) -> None:
        with self._state:
            self.lost.set()
            self._waiting.clear()
            self._state.notify_all()
        if self._on_lost is not None:
            self._on_lost()
