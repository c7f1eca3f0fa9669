"""The status changes of whole accounts for any number of streams of one process.

One query reads the news of all watched tenants: when a notification arrives (at most every 50 ms), every 15 s, and
every second while Redis is down. Each change is encoded once. Streams pull by cursor and have no queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

from litestar.concurrency import sync_to_thread

from api.edge.turns import Caller
from api.streams.account_channel import (
    BATCH_EVENTS,
    EncodedChange,
    TenantChannel,
    compose,
    encode_page,
)
from api.streams.cursor_hub import ChangeSignal, Connected, CursorHub, CursorWatch
from api.streams.timing import StreamTiming
from shared.errors import Unavailable
from shared.logs.account_events import AccountPage
from shared.logs.listener import AccountChangeHandler

_logger = logging.getLogger(__name__)

_COALESCED_SECONDS = 0.05
# Changes before the head that a new channel loads: streams that come back after a restart find their place there.
_PRELOADED_EVENTS = 20
# Tenants whose changes one query reads: few enough not to hold up the event loop for long when all clients reconnect.
_TENANTS_AT_ONCE = 50


class AccountReader(Protocol):
    """The part of AccountEventStore that streams need. Called from threads."""

    def heads(self, tenant_ids: Sequence[str]) -> dict[str, int]: ...

    def read(self, positions: Mapping[str, int], *, limit: int) -> dict[str, AccountPage]: ...


class AccountListener(Connected, Protocol):
    """See RedisNotificationListener, which the LogHub runs."""

    def watch_accounts(self, handler: AccountChangeHandler) -> None: ...

    def unwatch_accounts(self) -> None: ...


class AccountHub(CursorHub[TenantChannel, dict[str, AccountPage]]):
    """Channels by tenant. The listener is one that the LogHub runs."""

    def __init__(self, store: AccountReader, listener: AccountListener, timing: StreamTiming | None = None) -> None:
        failure = "Status changes of accounts could not be read."
        super().__init__(lane="account_pages", readers=1, listener=listener, timing=timing, failure=failure)
        self._store = store
        self._listener = listener
        self._due = asyncio.Event()

    def _spawn_tasks(self) -> None:
        self._schedule.note_outage()
        self._tasks.spawn(self._keep_up())

    async def heads(self, tenant_ids: Sequence[str]) -> dict[str, int]:
        """The newest number of each tenant. Reads in the lane of the request that asks. Raises Unavailable."""
        return await sync_to_thread(self._store.heads, tenant_ids)

    @asynccontextmanager
    async def watch(self, heads: Mapping[str, int], caller: Caller) -> AsyncGenerator[AccountWatch]:
        """`heads`: the tenants, and a number of each that exists. All later changes are noticed. `caller`: takes the
        turns for pages of the store."""
        if not self._channels:
            self._listener.watch_accounts(self)
        channels = [self._channel(tenant_id, head) for tenant_id, head in heads.items()]
        signal = ChangeSignal()
        for channel in channels:
            channel.signals.add(signal)
        self._due.set()
        try:
            yield AccountWatch(self, channels, signal, caller)
        finally:
            for channel in channels:
                channel.signals.discard(signal)
                if not channel.signals:
                    del self._channels[channel.tenant_id]
            if not self._channels:
                self._listener.unwatch_accounts()

    # What the listener calls.

    def accounts_changed(self) -> None:
        self._due.set()

    def accounts_subscribed(self) -> None:
        # As after an outage: notifiers may still pause after it.
        self._schedule.note_outage()
        self._due.set()

    # What an AccountWatch calls.

    async def pages(self, positions: Mapping[str, int], caller: Caller, seconds: float) -> dict[str, AccountPage]:
        """The store's changes after the positions; empty when the time is over. Raises Unavailable."""
        read = partial(self._store.read, dict(positions), limit=BATCH_EVENTS)
        return await self._pages.read(caller, frozenset(positions.items()), read, seconds) or {}

    # Within

    def _channel(self, tenant_id: str, head: int) -> TenantChannel:
        channel = self._channels.get(tenant_id)
        if channel is None:
            channel = self._channels[tenant_id] = TenantChannel(tenant_id, max(0, head - _PRELOADED_EVENTS))
        return channel

    async def _keep_up(self) -> None:
        while True:
            await self._wait_until_due()
            self._due.clear()
            try:
                await self._look()
            except Unavailable:
                await asyncio.sleep(self.timing.poll)
                self._due.set()
            except Exception:
                # After any error: streams must not fall silent for good.
                _logger.exception("Status changes of accounts can't be read.")
                await asyncio.sleep(self.timing.poll)
                self._due.set()
            await asyncio.sleep(_COALESCED_SECONDS)

    async def _wait_until_due(self) -> None:
        self._schedule.note_comparison()
        while not self._due.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.timing.poll):
                    await self._due.wait()
            if self._schedule.is_due():
                return

    async def _look(self) -> None:
        """Brings all channels up to date, or closer: then it is due again."""
        if not self._channels:
            return
        heads = await self._read(partial(self._store.heads, list(self._channels)))
        positions = {channel.tenant_id: channel.last for channel in self._channels.values()}
        behind = [tenant_id for tenant_id, head in heads.items() if head > positions.get(tenant_id, head)]
        for start in range(0, len(behind), _TENANTS_AT_ONCE):
            asked = {tenant_id: positions[tenant_id] for tenant_id in behind[start : start + _TENANTS_AT_ONCE]}
            pages = await self._read(partial(self._store.read, asked, limit=BATCH_EVENTS))
            for tenant_id, page in pages.items():
                self._extend(tenant_id, page)

    def _extend(self, tenant_id: str, page: AccountPage) -> None:
        channel = self._channels.get(tenant_id)
        if channel is None:
            return
        channel.extend(page)
        channel.wake()
        if channel.last < page.last_seq:
            self._due.set()


class AccountWatch(CursorWatch[AccountHub, dict[str, int], bytes]):
    """The cursor holds a position for each tenant; `next` advances it by the events that it returns."""

    def __init__(
        self, hub: AccountHub, channels: Sequence[TenantChannel], signal: ChangeSignal, caller: Caller
    ) -> None:
        super().__init__(hub, signal, caller)
        self._channels = channels

    async def _find(self, cursor: dict[str, int], seconds: float) -> bytes | None:
        news: dict[str, list[EncodedChange]] = {}
        unknown: dict[str, int] = {}
        for channel in self._channels:
            position = cursor[channel.tenant_id]
            if position < channel.last:
                changes = channel.after(position)
                if changes is None:
                    unknown[channel.tenant_id] = position
                else:
                    news[channel.tenant_id] = changes
        if unknown and not news:
            # These may have to wait for their turn; changes of the channels don't.
            pages = await self._hub.pages(unknown, self._caller, seconds)
            news |= {tenant_id: encode_page(unknown[tenant_id], page) for tenant_id, page in pages.items()}
        return compose(cursor, news) if news else None
