"""The slots of streams, on a real Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any

import pytest
from redis import Redis

from shared.errors import ErrorCode
from shared.identifiers import new_identifier
from shared.logs.stream_slots import RedisStreamSlots, StreamLimitReached
from tests.support.log_rows import eventually

pytestmark = pytest.mark.integration

TIMEOUT_SECONDS = 120.0

USER = new_identifier("user")


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    with closing(Redis.from_url(redis_url)) as redis:
        redis.delete(key())
        yield redis


def key() -> str:
    return f"streams:user:{USER}"


@asynccontextmanager
async def running(redis_url: str, **options: Any) -> AsyncGenerator[RedisStreamSlots]:
    slots = RedisStreamSlots(redis_url, **{"limit": 2, "renew_seconds": 0.05, **options})
    async with slots.running():
        yield slots


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(eventually, condition, TIMEOUT_SECONDS)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def test_the_hundred_and_first_stream_is_refused(redis: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What a busy machine takes a second to answer would count as no answer, and the streams as uncountable.
    monkeypatch.setattr("shared.logs.stream_slots._TIMEOUT_SECONDS", TIMEOUT_SECONDS)

    async def test() -> None:
        async with (
            running(redis_url, limit=100) as one,
            running(redis_url, limit=100) as two,
            AsyncExitStack() as streams,
        ):
            # All at once, so that the count and the decision can't come apart.
            holds = [slots.hold(USER) for _ in range(75) for slots in (one, two)]
            results = await asyncio.gather(
                *(streams.enter_async_context(hold) for hold in holds), return_exceptions=True
            )
            refusals = [result for result in results if result is not None]
            assert len(refusals) == 50
            for refusal in refusals:
                assert isinstance(refusal, StreamLimitReached)
                assert refusal.code == ErrorCode.STREAM_LIMIT
                assert "You have 100 streams open" in refusal.message
                assert refusal.retry_after_seconds > 0
            await until(lambda: redis.zcard(key()) == 100)
        assert redis.zcard(key()) == 0

    run(test)


def test_a_stream_that_raises_or_is_cancelled_gives_its_slot_back(redis: Any, redis_url: str) -> None:
    async def test() -> None:
        async with running(redis_url, limit=41) as slots:
            for _ in range(45):
                with pytest.raises(RuntimeError):
                    async with slots.hold(USER):
                        raise RuntimeError

            async def stream() -> None:
                async with slots.hold(USER):
                    await asyncio.Event().wait()

            # Some before they have a slot, some with one.
            for turns in range(40):
                task = asyncio.create_task(stream())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                assert task.cancelled()
            await until(lambda: slots.open_count == 0)
            await until(lambda: redis.zcard(key()) == 0)

    run(test)


def test_the_slots_of_a_process_that_is_gone_run_out(redis: Any, redis_url: str) -> None:
    async def test() -> None:
        # It never renews, as a process that was killed.
        began = time.monotonic()
        async with (
            running(redis_url, lease_seconds=2, renew_seconds=3600) as gone,
            running(redis_url) as slots,
            gone.hold(USER),
            gone.hold(USER),
        ):
            assert redis.zcard(key()) == 2 or time.monotonic() - began >= 2
            # Its key goes with the last lease.
            await until(lambda: not redis.exists(key()))
            async with slots.hold(USER), slots.hold(USER):
                with pytest.raises(StreamLimitReached):
                    await slots.hold(USER).__aenter__()

    run(test)


def test_slots_that_are_held_are_renewed_and_expire_with_their_key(redis: Any, redis_url: str) -> None:
    async def test() -> None:
        async with running(redis_url) as slots, slots.hold(USER):
            [(slot, first)] = redis.zrange(key(), 0, -1, withscores=True)
            await until(lambda: redis.zscore(key(), slot) > first)
            assert 0 < redis.pttl(key()) <= 20_000
            redis.delete(key())
            await until(lambda: redis.zcard(key()) == 1)
        assert redis.zcard(key()) == 0

    run(test)
