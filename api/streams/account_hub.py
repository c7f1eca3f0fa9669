"""The status changes of whole accounts for any number of streams of one process.

One query reads what is new of all watched tenants: when a notification arrives (at most every 50 ms), every 15 s, and
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

import anyio
from litestar.concurrency import sync_to_thread

from api.edge.turns import Caller
from api.streams.account_channel import (
    BATCH_EVENTS,
    EncodedChange,
    TenantChannel,
    compose,
    encode_page,
)
from api.streams.background import BackgroundTasks, run_in_thread
from api.streams.page_reads import PageReads
from api.streams.timing import StreamTiming
from api.streams.watch import HubClosing
from shared.errors import Unavailable
from shared.logs.account_events import AccountPage
from shared.logs.listener import AccountChangeHandler

_logger = logging.getLogger(__name__)

_COALESCED_SECONDS = 0.05
# Longer than a RedisNotifier pauses after a failure.
_WRITERS_RETURN_SECONDS = 5.0
# Changes before the head that a new channel loads: streams that come back after a restart find their place there.
_PRELOADED_EVENTS = 20
# Tenants whose changes one query reads: it doesn't hold the event loop up for long when everybody comes back at once.
_TENANTS_AT_ONCE = 50


class AccountReader(Protocol):
    """The part of AccountEventStore that streams need. Called from threads."""

    def heads(self, tenant_ids: Sequence[str]) -> dict[str, int]: ...

    def read(self, positions: Mapping[str, int], *, limit: int) -> dict[str, AccountPage]: ...


class AccountListener(Protocol):
    """See RedisNotificationListener, which the StreamHub runs."""

    is_connected: bool

    def watch_accounts(self, handler: AccountChangeHandler) -> None: ...

    def unwatch_accounts(self) -> None: ...


class AccountHub:
    """Belongs to the event loop that `start` runs on; only `begin_shutdown` may be called from elsewhere. Stopped in
    two steps, as the StreamHub is."""

    def __init__(self, store: AccountReader, listener: AccountListener, timing: StreamTiming | None = None) -> None:
        self.timing = timing or StreamTiming()
        self.is_closing = False
        self._store = store
        self._listener = listener
        self._channels: dict[str, TenantChannel] = {}
        self._watches: dict[str, set[AccountWatch]] = {}
        self._tasks = BackgroundTasks("Status changes of accounts could not be read.")
        self._pages = PageReads[dict[str, AccountPage]]("account_pages", self._tasks)
        self._due = asyncio.Event()
        self._disconnected_at = 0.0
        # What is new is read in a thread of its own, and doesn't wait for pages.
        self._own_reader: anyio.CapacityLimiter | None = None

    async def start(self) -> None:
        self._tasks.start()
        self._own_reader = anyio.CapacityLimiter(1)
        self._disconnected_at = asyncio.get_running_loop().time()
        self._tasks.spawn(self._keep_up())

    def begin_shutdown(self) -> None:
        """Safe from any thread and from a signal handler; may be called again."""
        self._tasks.call_soon(self._tell_shutdown)

    async def close(self) -> None:
        self._tell_shutdown()
        await self._tasks.close()

    async def heads(self, tenant_ids: Sequence[str]) -> dict[str, int]:
        """The newest number of each tenant. Reads in the lane of the request that asks. Raises Unavailable."""
        return await sync_to_thread(self._store.heads, tenant_ids)

    @asynccontextmanager
    async def watch(self, heads: Mapping[str, int], caller: Caller) -> AsyncGenerator[AccountWatch]:
        """`heads`: the tenants, and a number of each that has been given. All that is numbered above is noticed.
        `caller`: whose turns pages of the store take."""
        if not self._channels:
            self._listener.watch_accounts(self)
        watch = AccountWatch(self, [self._channel(tenant_id, head) for tenant_id, head in heads.items()], caller)
        for tenant_id in heads:
            self._watches.setdefault(tenant_id, set()).add(watch)
        self._due.set()
        try:
            yield watch
        finally:
            for tenant_id in heads:
                self._watches[tenant_id].discard(watch)
                if not self._watches[tenant_id]:
                    del self._watches[tenant_id], self._channels[tenant_id]
            if not self._channels:
                self._listener.unwatch_accounts()

    @property
    def watched_count(self) -> int:
        """Tenants that somebody watches."""
        return len(self._channels)

    # What the listener calls.

    def accounts_changed(self) -> None:
        self._due.set()

    def accounts_subscribed(self) -> None:
        # As after an outage: notifiers may still pause after it.
        self._disconnected_at = asyncio.get_running_loop().time()
        self._due.set()

    # What an AccountWatch calls.

    async def pages(self, positions: Mapping[str, int], caller: Caller, seconds: float) -> dict[str, AccountPage]:
        """What the store has after the positions; nothing when the time is over. Raises Unavailable."""
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
                # Whatever it is, streams must not fall silent for good.
                _logger.exception("Status changes of accounts can't be read.")
                await asyncio.sleep(self.timing.poll)
                self._due.set()
            await asyncio.sleep(_COALESCED_SECONDS)

    async def _wait_until_due(self) -> None:
        clock = asyncio.get_running_loop().time
        looked_at = clock()
        while not self._due.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.timing.poll):
                    await self._due.wait()
            if not self._listener.is_connected:
                self._disconnected_at = clock()
            # Writers take a moment longer to find out that Redis is back.
            is_up = clock() - self._disconnected_at > _WRITERS_RETURN_SECONDS
            if not is_up or clock() - looked_at >= self.timing.compare:
                return

    async def _look(self) -> None:
        """Brings all channels up to date, or nearer: then it is due again."""
        if not self._channels:
            return
        heads = await run_in_thread(partial(self._store.heads, list(self._channels)), self._own_reader)
        positions = {channel.tenant_id: channel.last for channel in self._channels.values()}
        behind = [tenant_id for tenant_id, head in heads.items() if head > positions.get(tenant_id, head)]
        for start in range(0, len(behind), _TENANTS_AT_ONCE):
            asked = {tenant_id: positions[tenant_id] for tenant_id in behind[start : start + _TENANTS_AT_ONCE]}
            pages = await run_in_thread(partial(self._store.read, asked, limit=BATCH_EVENTS), self._own_reader)
            for tenant_id, page in pages.items():
                self._extend(tenant_id, page)

    def _extend(self, tenant_id: str, page: AccountPage) -> None:
        channel = self._channels.get(tenant_id)
        if channel is None:
            return
        channel.extend(page)
        for watch in self._watches[tenant_id]:
            watch.wake()
        if channel.last < page.last_seq:
            self._due.set()

    def _tell_shutdown(self) -> None:
        self.is_closing = True
        # Streams that wait for their turns can say goodbye.
        self._pages.close()
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()


class AccountWatch:
    """One stream's view of its tenants."""

    def __init__(self, hub: AccountHub, channels: Sequence[TenantChannel], caller: Caller) -> None:
        self._hub = hub
        self._channels = channels
        self._caller = caller
        self._changed = asyncio.Event()

    def wake(self) -> None:
        self._changed.set()

    async def next(self, positions: dict[str, int], timeout_seconds: float) -> bytes | None:
        """The events after the positions, waiting for them; moves the positions on. None when the time is over.

        Raises HubClosing. While PostgreSQL is down it waits, too.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_seconds
        while True:
            if self._hub.is_closing:
                raise HubClosing
            self._changed.clear()
            pause = timeout_seconds
            try:
                news = await self._news(positions, deadline - clock())
            except Unavailable:
                news, pause = {}, self._hub.timing.poll
            if news:
                return compose(positions, news)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(min(pause, deadline - clock()), 0)):
                    await self._changed.wait()
            if clock() >= deadline:
                return None

    async def _news(self, positions: Mapping[str, int], seconds: float) -> dict[str, list[EncodedChange]]:
        news: dict[str, list[EncodedChange]] = {}
        unknown: dict[str, int] = {}
        for channel in self._channels:
            position = positions[channel.tenant_id]
            if position < channel.last:
                changes = channel.after(position)
                if changes is None:
                    unknown[channel.tenant_id] = position
                else:
                    news[channel.tenant_id] = changes
        if unknown and not news:
            # These may have to wait for their turn, which what is here already doesn't.
            pages = await self._hub.pages(unknown, self._caller, seconds)
            news |= {tenant_id: encode_page(unknown[tenant_id], page) for tenant_id, page in pages.items()}
        return news
