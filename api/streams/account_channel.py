"""What one process keeps of a tenant whose changes somebody watches: the newest, encoded once for all streams."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec

from api.streams.account_cursor import encode_cursor
from shared.logs.account_events import AccountEvent, AccountPage

_RING_EVENTS = 1000
_RING_BYTES = 256 * 1024
# What a stream sends at once, more or less: of one tenant, and in all.
BATCH_EVENTS = 200
_BATCH_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class EncodedChange:
    """`frame` is the event without its id, which depends on who follows what. `seq` is the last number it covers."""

    seq: int
    timestamp: int
    frame: bytes


class TenantChannel:
    """Belongs to one event loop. The ring holds numbers without gaps up to `last`."""

    def __init__(self, tenant_id: str, last: int) -> None:
        self.tenant_id = tenant_id
        self.last = last
        self._ring: deque[EncodedChange] = deque()
        self._ring_bytes = 0

    def extend(self, page: AccountPage) -> None:
        """Takes over what follows `last` and drops what is known."""
        for event in page.events:
            if event.seq <= self.last:
                continue
            if event.seq != self.last + 1:
                # Events between have been removed; streams that are before them find that out from the store.
                self._clear()
            encoded = encode_change(event)
            self._ring.append(encoded)
            self._ring_bytes += len(encoded.frame)
            self.last = event.seq
        if not page.events and page.last_seq > self.last:
            self._clear()
            self.last = page.last_seq
        while len(self._ring) > _RING_EVENTS or self._ring_bytes > _RING_BYTES:
            self._ring_bytes -= len(self._ring.popleft().frame)

    def after(self, position: int) -> list[EncodedChange] | None:
        """What follows the position, when the ring has it."""
        if not self._ring or not self._ring[0].seq - 1 <= position < self._ring[-1].seq:
            return None
        start = position + 1 - self._ring[0].seq
        return list(islice(self._ring, start, start + BATCH_EVENTS))

    def _clear(self) -> None:
        self._ring.clear()
        self._ring_bytes = 0


def encode_page(position: int, page: AccountPage) -> list[EncodedChange]:
    """A page that was read after the position, as events; what has been removed becomes a gap."""
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
    """The first event: its id is where the stream begins, for clients that are cut off before the first change."""
    return _with_id(positions, _frame("ready", {}))


def compose(positions: dict[str, int], news: Mapping[str, Sequence[EncodedChange]]) -> bytes:
    """Events of several tenants, by their time as far as each tenant's order allows. Moves the positions on."""
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
