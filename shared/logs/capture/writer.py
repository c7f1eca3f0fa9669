"""The log of one attempt of one stage: raw output in, masked lines stored in order, watchers woken."""

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

# Beyond this, `write` waits: a build that outruns the store is slowed and memory stays flat.
_BUFFER_BYTES = 1024 * 1024
_RETRY = Backoff(0.1, 2.0, jitter=0.0)
# How long an outage of PostgreSQL may last before a stage fails for its log.
_PATIENCE_SECONDS = 60.0


class LogWriter:
    """A StageLog. Safe from any thread; its own thread stores the lines.

    `fence` is the token of the lease under which the stage runs. When a later one has written, or the deployment is
    gone, `lost` is set, `on_lost` is called once (from the writer's thread), and everything further is dropped. While
    PostgreSQL is down the batch in hand is kept and retried under the same number, and `write` blocks once 1 MiB waits.

    Call `close` before the stage's result is recorded: only then is everything stored. One writer at a time may use a
    fence; a second one after it goes on with its batch numbers.
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
        # Guards the splitters and the order of lines; held while a write waits for room, so that lines stay in order.
        self._input = threading.Lock()
        self._splitters: dict[Stream, LineSplitter] = {
            "stdout": LineSplitter(redactor.stream()),
            "stderr": LineSplitter(redactor.stream()),
        }
        # Guards what follows. Notified when lines come, when lines have been stored, and when the writer ends.
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
        """See StageLog. Ends lines in progress first, so that a command's last words come before what follows it."""
        splitter = LineSplitter()
        masked = self._redactor.mask(text)
        lines = splitter.feed(masked.encode(errors="replace")) + splitter.flush()
        if not self._input.acquire(timeout=_PATIENCE_SECONDS):
            # Output has been waiting for room all that time; `close` is going to say so.
            _logger.warning("A line of the log of %s is dropped: the database does not answer.", self._deployment_id)
            return
        try:
            for stream, output in self._splitters.items():
                self._enqueue(stream, output.end_partial_line(), may_wait=False)
            self._enqueue("system", lines, may_wait=False)
        finally:
            self._input.release()

    def flush(self, timeout_seconds: float = _PATIENCE_SECONDS) -> None:
        """Returns when everything is stored. Raises LeaseLost, or PlatformError after the time is over.

        Ends lines in progress, so call it when no command is running: a secret of which only the first half has come
        would be let through.
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

    def close(self, timeout_seconds: float = _PATIENCE_SECONDS) -> None:
        """Stores what is left, the unfinished last line too, and ends the thread. May be called twice.

        Raises PlatformError when it couldn't be stored in time; then the stage must not be recorded as done. A lost
        lease raises nothing: look at `lost`.
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
            # A write waits for room that doesn't come.
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
                # What is little (the platform's own lines, the last ones) doesn't wait for room.
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
            appended = self._store_patiently([line for group in batch for line in group.lines])
            if appended is None:
                return
            self._remove(batch, is_full=appended.is_full)
            self._notifier.notify(self._deployment_id, appended.first, appended.last, appended.entries)

    def _store_patiently(self, entries: Sequence[LogEntry]) -> Appended | None:
        """Tries until it is stored; None when the writer was given up or has lost its lease."""
        failures = 0
        while True:
            try:
                return self._appender.append(entries)
            except (LeaseLost, NotFound):
                self._lose()
                return None
            except Exception as error:
                # Whatever it is, the lines in hand must not be lost to it.
                if not isinstance(error, Unavailable):
                    _logger.exception("A batch of the log of %s could not be stored.", self._deployment_id)
                failures += 1
                if not self._pause(failures):
                    return None

    def _next_batch(self) -> list[LineGroup] | None:
        """Waits until a batch is due; None at the end. The batch stays in the buffer until it is stored."""
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
                # Nothing further would be stored.
                self._is_full = True
                self._waiting.clear()
            self._state.notify_all()

    def _pause(self, failures: int) -> bool:
        """Waits before the next try; False when the writer was given up."""
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
