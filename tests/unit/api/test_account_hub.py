"""The hub on a store and a listener in memory."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from api.edge.turns import Caller
from api.streams.account_hub import AccountHub
from api.streams.account_source import AccountFeed, AccountSource
from api.streams.cursor_hub import HubClosing
from api.streams.timing import StreamTiming
from shared.errors import Unavailable
from shared.logs.account_events import AccountEvent, AccountPage, StatusChange
from shared.logs.listener import AccountChangeHandler

# Longer than any test, so that no test passes by waiting for it.
NEVER = 3600.0
ADA = Caller("ada", "ada", is_known=True)
BOB = Caller("bob", "bob", is_known=True)


class Store:
    """See AccountReader."""

    def __init__(self) -> None:
        self.events: dict[str, list[AccountEvent]] = {}
        self.is_away = False
        self.asked: list[tuple[str, ...]] = []
        self.read_positions: list[dict[str, int]] = []
        # Pages after these positions of tenant "a" come once it is set.
        self.held: range = range(0)
        self.released = threading.Event()

    def add(self, tenant_id: str, *statuses: str) -> None:
        events = self.events.setdefault(tenant_id, [])
        for status in statuses:
            change = StatusChange(status=status, ts=len(events))
            events.append(AccountEvent(tenant_id, len(events) + 1, "depl_1", "proj_1", False, change))

    def heads(self, tenant_ids: Sequence[str]) -> dict[str, int]:
        self.asked.append(tuple(sorted(tenant_ids)))
        if self.is_away:
            raise Unavailable("away")
        return {tenant_id: len(self.events.get(tenant_id, [])) for tenant_id in tenant_ids}

    def read(self, positions: Mapping[str, int], *, limit: int) -> dict[str, AccountPage]:
        if self.is_away:
            raise Unavailable("away")
        if positions.get("a") in self.held:
            assert self.released.wait(60)
        pages = {
            tenant_id: AccountPage(len(events), events[position : position + limit])
            for tenant_id, position in positions.items()
            if len(events := self.events.get(tenant_id, [])) > position
        }
        self.read_positions.append(dict(positions))
        return pages


class Listener:
    """See AccountListener."""

    def __init__(self) -> None:
        self.is_connected = True
        self.handler: AccountChangeHandler | None = None

    def watch_accounts(self, handler: AccountChangeHandler) -> None:
        self.handler = handler

    def unwatch_accounts(self) -> None:
        self.handler = None

    def notify(self) -> None:
        assert self.handler is not None
        self.handler.accounts_changed()


class World:
    def __init__(self, **timing: float) -> None:
        self.store = Store()
        self.listener = Listener()
        self.hub = AccountHub(self.store, self.listener, StreamTiming(**({"poll": 0.02, "compare": NEVER} | timing)))

    async def source(self, *tenant_ids: str, caller: Caller = ADA, **positions: int) -> AccountSource:
        heads = await self.hub.heads(tenant_ids)
        return AccountSource(self.hub, heads | positions, heads, caller)


def run(scenario: Callable[[World], Awaitable[None]], **timing: float) -> None:
    async def whole() -> None:
        world = World(**timing)
        await world.hub.start()
        try:
            async with asyncio.timeout(60):
                await scenario(world)
        finally:
            world.store.released.set()
            await world.hub.close()

    asyncio.run(whole())


async def statuses(feed: Any, count: int) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        chunk = await feed.next(NEVER)
        assert chunk is not None
        assert not chunk.is_end
        found += [part.partition('"')[0] for part in chunk.payload.decode().split('"status":"')[1:]]
    return found


async def begun(feed: Any) -> AccountFeed:
    chunk = await feed.next(NEVER)
    assert chunk is not None
    assert b"event: ready" in chunk.payload
    return feed


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - the condition is another thread's doing, too
        await asyncio.sleep(0.005)


def test_a_notification_brings_what_is_new_and_what_is_known_is_not_read_again() -> None:
    async def scenario(world: World) -> None:
        world.store.add("a", "old")
        async with (await world.source("a")).open() as one, (await world.source("a", "b")).open() as two:
            for feed in (one, two):
                await begun(feed)
            await until(lambda: {"a": 0} in world.store.read_positions)
            world.store.read_positions.clear()
            world.store.add("a", "first")
            world.listener.notify()
            assert [await statuses(one, 1), await statuses(two, 1)] == [["first"], ["first"]]
            world.store.add("b", "second")
            world.listener.notify()
            assert await statuses(two, 1) == ["second"]
            assert world.store.read_positions == [{"a": 1}, {"b": 0}]
            assert await one.next(0.01) is None
        assert world.listener.handler is None
        assert world.hub.watched_count == 0

    run(scenario)


def test_all_tenants_are_asked_for_at_once() -> None:
    async def scenario(world: World) -> None:
        tenants = [f"t{number}" for number in range(120)]
        async with (await world.source(*tenants)).open() as feed:
            await begun(feed)
            asked = tuple(sorted(tenants))
            await until(lambda: world.store.asked.count(asked) >= 2)
            world.store.asked.clear()
            for tenant in tenants:
                world.store.add(tenant, tenant)
                world.listener.notify()
            assert sorted(await statuses(feed, 120)) == sorted(tenants)
            assert set(world.store.asked) == {asked}
            assert len(world.store.asked) <= 2

    run(scenario, poll=NEVER)


def test_a_position_long_ago_is_read_from_the_store_once_for_all_that_are_there() -> None:
    async def scenario(world: World) -> None:
        names = [f"s{number}" for number in range(500)]
        world.store.add("a", *names)
        async with (await world.source("a", a=3)).open() as one, (await world.source("a", a=3)).open() as two:
            for feed in (one, two):
                await begun(feed)
            assert await asyncio.gather(statuses(one, 497), statuses(two, 497)) == [names[3:], names[3:]]
            assert world.store.read_positions.count({"a": 3}) == 1

    run(scenario)


def test_pages_that_one_user_waits_for_do_not_delay_those_of_another() -> None:
    async def scenario(world: World) -> None:
        names = [f"s{number}" for number in range(500)]
        world.store.add("a", *names)
        heads = await world.hub.heads(["a"])
        world.store.held = range(1, 41)
        async with world.hub.watch(heads, ADA) as flood, (await world.source("a", caller=BOB, a=41)).open() as other:
            reading = [asyncio.create_task(flood.next({"a": position}, NEVER)) for position in range(1, 42)]
            await begun(other)
            assert await statuses(other, 459) == names[41:]
            assert await flood.next({"a": 1}, 0.0) is None
            assert not any(task.done() for task in reading)
            world.store.released.set()
            pages = await asyncio.gather(*reading)
        for position, page in enumerate(pages, start=1):
            assert page is not None
            assert f'"status":"s{position}"'.encode() in page

    run(scenario)


@pytest.mark.parametrize("is_connected", [False, True])
def test_changes_without_a_notification_are_found(*, is_connected: bool) -> None:
    """Soon while Redis is away; otherwise when heads are compared."""

    async def scenario(world: World) -> None:
        world.listener.is_connected = is_connected
        async with (await world.source("a")).open() as feed:
            await begun(feed)
            world.store.add("a", "silent")
            assert await statuses(feed, 1) == ["silent"]

    run(scenario, compare=0.1 if is_connected else NEVER)


def test_streams_wait_out_a_database_that_is_away() -> None:
    async def scenario(world: World) -> None:
        world.store.add("a", *(f"s{number}" for number in range(300)))
        async with (await world.source("a", a=1)).open() as behind, (await world.source("a")).open() as live:
            for feed in (behind, live):
                await begun(feed)
            world.store.is_away = True
            world.listener.notify()
            assert await live.next(0.1) is None
            assert await behind.next(0.1) is None
            world.store.is_away = False
            world.store.add("a", "back")
            assert await statuses(live, 1) == ["back"]
            assert (await statuses(behind, 300))[-1] == "back"

    run(scenario)


def test_an_unexpected_error_does_not_silence_the_streams(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: World) -> None:
        async with (await world.source("a")).open() as feed:
            await begun(feed)
            original, world.store.events = world.store.events, None  # type: ignore[assignment]
            world.listener.notify()
            await until(lambda: bool(caplog.records))
            world.store.events = original
            world.store.add("a", "still here")
            assert await statuses(feed, 1) == ["still here"]

    run(scenario)


def test_a_closing_hub_ends_its_streams_and_tenants_that_vanish_say_nothing() -> None:
    async def scenario(world: World) -> None:
        world.store.add("a", "one")
        async with (await world.source("a")).open() as feed:
            await begun(feed)
            world.store.events.clear()
            world.listener.notify()
            assert await feed.next(0.1) is None
            waiting = asyncio.ensure_future(feed.next(NEVER))
            await asyncio.sleep(0)
            world.hub.begin_shutdown()
            with pytest.raises(HubClosing):
                await waiting

    run(scenario)
