"""The newest log entries of a watched deployment, encoded once for all streams of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from api.streams.cursor_hub import ChangeSignal
from api.streams.frames import EncodedEntry, encode_entry, frames, gap_frame, queue_position_frame
from api.streams.ring import EntryRing
from schemas.logs import LogEnd, LogStatus
from shared.deployments.state import DeploymentStatus
from shared.logs.base import LogHead, NumberedEntry

RING_ENTRIES = 2000
_RING_BYTES = 1024 * 1024
# What a stream sends at once, approximately.
BATCH_BYTES = 64 * 1024
BATCH_ENTRIES = 1000
# Streams that are nearly up to date share batches; others start at places of their own.
_KEPT_BATCHES = 16


@dataclass(frozen=True, slots=True)
class Batch:
    """`payload` holds whole events; `cursor` is the last number they cover. After `is_end` nothing follows."""

    payload: bytes
    cursor: int
    is_end: bool


class LogChannel:
    """The newest entries of one log. Belongs to one event loop. `last` is the number of the newest one; None until it
    is loaded.

    `mentioned` is the greatest number known from notifications or the head: above `last`, entries are missing.
    `position`: the event with the deployment's position in the queue while it waits there; empty when unknown.
    """

    def __init__(self, deployment_id: str) -> None:
        self.deployment_id = deployment_id
        self.signal = ChangeSignal()
        self.watchers = 0
        self.is_loaded = False
        self.mentioned = 0
        self.is_closed = False
        self.is_gone = False
        self.acknowledged = asyncio.Event()
        self.is_queued = False
        self.position = b""
        self.refresh: asyncio.Task[None] | None = None
        self.is_refresh_due = False
        self._ring = EntryRing[EncodedEntry](maximum_entries=RING_ENTRIES, maximum_bytes=_RING_BYTES)
        self._batches: dict[int, Batch] = {}

    @property
    def last(self) -> int | None:
        return self._ring.last if self.is_loaded else None

    @property
    def is_behind(self) -> bool:
        return self.last is None or self.mentioned > self.last

    def is_read_to_the_end(self, cursor: int) -> bool:
        """Whether nothing will follow."""
        return self.is_closed and not self.is_behind and self.last is not None and cursor >= self.last

    def wake(self) -> None:
        self.signal.wake()

    def show_position(self, position: int | None) -> None:
        """The position in the queue, 1 being next; None when it is no longer known."""
        known = position is not None and self.is_queued and self.last is not None
        event = queue_position_frame(self.last or 0, position or 0) if known else b""
        if event != self.position:
            self.position = event
            self.wake()

    def load(self, head: LogHead, entries: Sequence[NumberedEntry]) -> None:
        """Adds the first entries: those before the head, if any are kept."""
        self._ring.skip_to(entries[0].seq - 1 if entries else head.last_seq)
        self.is_loaded = True
        self.mentioned = max(self.mentioned, head.last_seq)
        self.is_closed = head.is_closed
        self.extend(entries)
        self.wake()

    def extend(self, entries: Sequence[NumberedEntry]) -> None:
        """Adds the entries above `last`."""
        fresh = [numbered for numbered in entries if self.last is None or numbered.seq > self.last]
        if not fresh:
            return
        for numbered in fresh:
            self._ring.append(encode_entry(numbered))
        self.is_loaded = True
        self.mentioned = max(self.mentioned, fresh[-1].seq)
        self.is_closed = self.is_closed or isinstance(fresh[-1].entry, LogEnd)
        self._note_status(fresh)
        self._batches.clear()
        self.wake()

    def _note_status(self, fresh: Sequence[NumberedEntry]) -> None:
        for numbered in fresh:
            if isinstance(numbered.entry, LogStatus):
                self.is_queued = numbered.entry.status == DeploymentStatus.QUEUED
        if not self.is_queued:
            self.position = b""

    def batch(self, cursor: int) -> Batch | None:
        """The events after `cursor`; None if the ring doesn't have the next one."""
        if cursor in self._batches:
            return self._batches[cursor]
        entries = self._ring.after(cursor, BATCH_ENTRIES)
        if entries is None:
            return None
        if len(self._batches) >= _KEPT_BATCHES:
            self._batches.pop(next(iter(self._batches)))
        batch = self._batches[cursor] = _batch(cursor, entries)
        return batch


def page_batch(cursor: int, entries: Sequence[NumberedEntry], last: int) -> Batch | None:
    """The events of a page that was read after `cursor`, from a store that should have entries up to `last`."""
    if not entries:
        return Batch(gap_frame(cursor + 1, last), last, is_end=False) if last > cursor else None
    # Up to where entries are missing; the next page begins with that gap.
    offset = entries[0].seq
    whole = takewhile(lambda pair: pair[1].seq == offset + pair[0], enumerate(entries))
    return _batch(cursor, [encode_entry(numbered) for _, numbered in whole])


def _batch(cursor: int, entries: list[EncodedEntry]) -> Batch:
    size = 0
    chosen: list[EncodedEntry] = []
    for entry in entries:
        chosen.append(entry)
        size += len(entry.data)
        if size >= BATCH_BYTES:
            break
    payload = frames(chosen)
    if chosen[0].seq > cursor + 1:
        payload = gap_frame(cursor + 1, chosen[0].seq - 1) + payload
    return Batch(payload, chosen[-1].seq, is_end=chosen[-1].event == "end")
