"""The newest changes of a watched tenant, encoded once for all streams of the process."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from api.streams.account_cursor import encode_cursor
from api.streams.cursor_hub import ChangeSignal
from api.streams.ring import EntryRing
from shared.logs.account_events import AccountEvent, AccountPage

_RING_EVENTS = 1000
_RING_BYTES = 256 * 1024
# What a stream sends at once, approximately: of one tenant, and in total.
BATCH_EVENTS = 200
_BATCH_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class EncodedChange:
    """`frame` is the event without its id, which depends on the tenants that a stream follows. `seq` is the last number
    that it covers."""

    seq: int
    timestamp: int
    frame: bytes

    @property
    def size(self) -> int:
        return len(self.frame)


class TenantChannel:
    """Belongs to one event loop. The ring holds numbers without gaps up to `last`. `signals`: of the streams."""

    def __init__(self, tenant_id: str, last: int) -> None:
        self.tenant_id = tenant_id
        self.signals: set[ChangeSignal] = set()
        self._ring = EntryRing[EncodedChange](maximum_entries=_RING_EVENTS, maximum_bytes=_RING_BYTES, last=last)

    @property
    def last(self) -> int:
        return self._ring.last

    def wake(self) -> None:
        for signal in self.signals:
            signal.wake()

    def extend(self, page: AccountPage) -> None:
        """Adds the events above `last`."""
        for event in page.events:
            if event.seq > self.last:
                self._ring.append(encode_change(event))
        if not page.events and page.last_seq > self.last:
            self._ring.skip_to(page.last_seq)

    def after(self, position: int) -> list[EncodedChange] | None:
        """The changes after the position; None if the ring doesn't have the next one."""
        return self._ring.after(position, BATCH_EVENTS)


def encode_page(position: int, page: AccountPage) -> list[EncodedChange]:
    """A page that was read after the position, as events; removed events become a gap."""
    if not page.events:
        return [_gap(position + 1, page.last_seq, 0)]
    first = page.events[0]
    encoded = [_gap(position + 1, first.seq - 1, first.change.ts)] if first.seq > position + 1 else []
    for expected, event in enumerate(page.events, start=first.seq):
        if event.seq != expected:
            # The next page begins with that gap.
            break
        encoded.append(encode_change(event))
    return encoded


def encode_change(event: AccountEvent) -> EncodedChange:
    fields = {
        "deploymentId": event.deployment_id,
        "projectId": event.project_id,
        "isPreview": event.is_preview,
        **msgspec.to_builtins(event.change),
    }
    return EncodedChange(event.seq, event.change.ts, _frame("status", fields))


def ready_event(positions: Mapping[str, int]) -> bytes:
    """The first event. Its id is the stream's start, for clients that are cut off before the first change."""
    return _with_id(positions, _frame("ready", {}))


def compose(positions: dict[str, int], news: Mapping[str, Sequence[EncodedChange]]) -> bytes:
    """Events of several tenants, by time as far as each tenant's order allows. Advances the positions."""
    parts: list[bytes] = []
    size = 0
    of_tenants = [[(tenant_id, change) for change in changes] for tenant_id, changes in news.items()]
    for tenant_id, change in heapq.merge(*of_tenants, key=lambda item: item[1].timestamp):
        positions[tenant_id] = change.seq
        parts.append(_with_id(positions, change.frame))
        size += len(parts[-1])
        if size >= _BATCH_BYTES:
            break
    return b"".join(parts)


def _gap(first: int, last: int, timestamp: int) -> EncodedChange:
    return EncodedChange(last, timestamp, _frame("gap", {"from": first, "to": last, "reason": "retention"}))


def _with_id(positions: Mapping[str, int], frame: bytes) -> bytes:
    return b"id: %s\n%s" % (encode_cursor(positions).encode(), frame)


def _frame(event: str, fields: Mapping[str, object]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (event.encode(), msgspec.json.encode(fields))
