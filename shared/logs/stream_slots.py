"""Limits the streams that each user has open, across all API processes.

Each open stream holds a slot: a member of a sorted set in Redis, with a lease that its process renews, so the slots of
a killed process expire. While Redis is away, each process counts only its own streams.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from shared.errors import ErrorCode, Unavailable
from shared.text.wording import counted

_logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 1.0
# After a failed attempt streams are admitted for this long without asking Redis, so that none of them waits for it.
_REST_SECONDS = 1.0
# Taking a slot is one short command; simultaneous streams share these connections.
_CONNECTIONS = 8
_RETRY_AFTER_SECONDS = 10


class StreamLimitReached(Unavailable):
    code = ErrorCode.STREAM_LIMIT


class _Script:
    def __init__(self, name: str) -> None:
        self.text = (resources.files("shared.logs") / name).read_text()
        # The digest only names a script; it isn't for security.
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class RedisStreamSlots:
    """Belongs to one event loop. Leases are renewed inside `running`."""

    def __init__(self, redis_url: str, *, limit: int, lease_seconds: float = 20.0, renew_seconds: float = 5.0) -> None:
        self._limit = limit
        self._lease = int(lease_seconds * 1000)
        self._renew_seconds = renew_seconds
        self._take_script = _Script("stream_slots_take.lua")
        self._renew_script = _Script("stream_slots_renew.lua")
        pool = BlockingConnectionPool.from_url(
            redis_url,
            max_connections=_CONNECTIONS,
            timeout=_TIMEOUT_SECONDS,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
            client_name="cloudify-streams",
        )
        self._redis: Any = Redis.from_pool(pool)
        # This process's streams by user: the count of all, the slots of open ones, and the slots of ended ones.
        self._counts: Counter[str] = Counter()
        self._held: dict[str, set[str]] = {}
        self._ended: dict[str, set[str]] = {}
        self._changed = asyncio.Event()
        self._resting_until = 0.0
        self._is_closing = False
        self._taking: set[asyncio.Task[bool]] = set()

    @property
    def open_count(self) -> int:
        """This process's streams, including those that are being admitted."""
        return self._counts.total()

    @asynccontextmanager
    async def hold(self, user_id: str) -> AsyncGenerator[None]:
        """Holds a slot for the length of the block. Raises StreamLimitReached."""
        if self._counts[user_id] >= self._limit:
            raise self._refusal()
        self._counts[user_id] += 1
        slot = secrets.token_hex(8)
        taking = asyncio.get_running_loop().create_task(self._take(user_id, slot))
        self._taking.add(taking)
        taking.add_done_callback(self._taking.discard)
        try:
            # Shielded, because redis-py can lose a cancellation that coincides with one of its own timeouts.
            if not await asyncio.shield(taking):
                raise self._refusal()
            self._held.setdefault(user_id, set()).add(slot)
            yield
        finally:
            if taking.done():
                self._give_back(user_id, slot)
            else:
                taking.add_done_callback(lambda _: self._give_back(user_id, slot))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Renews leases inside the block. At its end, returns slots of ended streams; others expire by their lease."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            # Asked to stop instead of cancelled, for the same reason as in `hold`.
            self._is_closing = True
            self._changed.set()
            await asyncio.wait([task, *self._taking])
            await self._write(is_renewal=False)
            await self._redis.aclose()

    async def _run(self) -> None:
        """Runs one pipeline at a time, so that a late renewal can't restore a slot that was returned."""
        loop = asyncio.get_running_loop()
        renew_at = loop.time() + self._renew_seconds
        while not self._is_closing:
            try:
                async with asyncio.timeout_at(renew_at):
                    await self._changed.wait()
            except TimeoutError:
                renew_at = loop.time() + self._renew_seconds
                await self._write(is_renewal=True)
            else:
                await self._write(is_renewal=False)

    def _refusal(self) -> StreamLimitReached:
        return StreamLimitReached(
            f"You have {counted(self._limit, 'stream')} open, which is the limit; close one, then try again.",
            details={"limit": self._limit},
            retry_after_seconds=_RETRY_AFTER_SECONDS,
        )

    def _give_back(self, user_id: str, slot: str) -> None:
        """Never waits, because it also runs when a stream is cancelled."""
        self._counts[user_id] -= 1
        if self._counts[user_id] <= 0:
            del self._counts[user_id]
        if held := self._held.get(user_id):
            held.discard(slot)
            if not held:
                del self._held[user_id]
        # Also a slot that isn't held: its reply may have been lost after it was taken.
        self._ended.setdefault(user_id, set()).add(slot)
        self._changed.set()

    async def _take(self, user_id: str, slot: str) -> bool:
        """Returns whether the stream is admitted; True while Redis is away."""
        now = asyncio.get_running_loop().time
        if now() < self._resting_until:
            return True
        # Ended streams no longer count, even if Redis doesn't know yet.
        arguments = (1, _key(user_id), slot, self._limit, self._lease, *self._ended.get(user_id, ()))
        try:
            try:
                reply = await self._redis.evalsha(self._take_script.digest, *arguments)
            except NoScriptError:
                reply = await self._redis.eval(self._take_script.text, *arguments)
        except Exception as error:  # noqa: BLE001  any failure of a connection admits the stream
            self._rest(error)
            return True
        return reply == 1

    async def _write(self, *, is_renewal: bool) -> None:
        ended = {user_id: tuple(slots) for user_id, slots in self._ended.items()}
        self._changed.clear()
        users = ended.keys() | self._held.keys() if is_renewal else ended.keys()
        if not users:
            return
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                # Redis may have been restarted since the last one.
                pipeline.script_load(self._renew_script.text)
                for user_id in users:
                    gone = ended.get(user_id, ())
                    held = self._held.get(user_id, ()) if is_renewal else ()
                    pipeline.evalsha(self._renew_script.digest, 1, _key(user_id), self._lease, len(gone), *gone, *held)
                await pipeline.execute()
            self._resting_until = 0.0
        except Exception as error:  # noqa: BLE001  the renewal must survive any failure of a connection
            # Slots of ended streams are no longer renewed, so they expire.
            self._rest(error)
        for user_id, slots in ended.items():
            self._ended[user_id].difference_update(slots)
            if not self._ended[user_id]:
                del self._ended[user_id]

    def _rest(self, error: Exception) -> None:
        self._resting_until = asyncio.get_running_loop().time() + _REST_SECONDS
        _logger.info("The slots of streams can't be counted across processes: %r.", error)


def _key(user_id: str) -> str:
    return f"streams:user:{user_id}"
