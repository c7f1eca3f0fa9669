"""The watcher's side of notifications: one Redis connection a process, for any number of deployments and accounts.

redis-py resubscribes silently after a reconnect, and messages published in between are lost. Every acknowledgement of a
subscription, also a later one, is therefore reported, so that the handler checks for missed changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from typing import Any, Protocol

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from shared.backoff import Backoff
from shared.logs.notifier import ACCOUNTS_CHANNEL, Notification, channel_of, decode_notification

_logger = logging.getLogger(__name__)

# Always subscribed to, to keep the connection in subscriber mode. Its acknowledgement shows that the connection works.
_OWN_CHANNEL = "deployment:-:events"
_TIMEOUT_SECONDS = 2.0
# A ping is sent after this long without a message; if there is no reply within the same time, the connection is dead.
_SILENCE_SECONDS = 5.0
_RECONNECT = Backoff(0.1, 1.0)


class NotificationHandler(Protocol):
    """Called on the event loop; must not block or raise."""

    def notified(self, deployment_id: str, notification: Notification | None) -> None:
        """A message came; None when it can't be read."""
        ...

    def subscribed(self, deployment_id: str) -> None:
        """Messages arrive from now on; earlier ones may have been missed."""
        ...


class AccountChangeHandler(Protocol):
    """Called on the event loop; must not block or raise."""

    def accounts_changed(self) -> None:
        """A deployment's status has changed, whose ever it is."""
        ...

    def accounts_subscribed(self) -> None:
        """From now on messages arrive; those before may have been missed."""
        ...


class RedisNotificationListener:
    """`run` until cancelled. All methods belong to one event loop."""

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._wanted: dict[str, str] = {}
        self._account_handler: AccountChangeHandler | None = None
        self._changed = asyncio.Event()
        self.is_connected = False

    def watch(self, deployment_id: str) -> None:
        self._wanted[channel_of(deployment_id)] = deployment_id
        self._changed.set()

    def unwatch(self, deployment_id: str) -> None:
        self._wanted.pop(channel_of(deployment_id), None)
        self._changed.set()

    def watch_accounts(self, handler: AccountChangeHandler) -> None:
        self._account_handler = handler
        self._changed.set()

    def unwatch_accounts(self) -> None:
        self._account_handler = None
        self._changed.set()

    async def run(self, handler: NotificationHandler) -> None:
        """Keeps a connection, whatever happens to Redis."""
        failures = 0
        while True:
            try:
                await self._session(handler)
            except Exception as error:  # noqa: BLE001  the listener must outlive whatever happens to a connection
                _logger.info("The log notifier's connection to Redis ended: %r.", error)
            was_connected, self.is_connected = self.is_connected, False
            failures = 1 if was_connected else failures + 1
            await asyncio.sleep(_RECONNECT.delay_seconds(failures))

    async def _session(self, handler: NotificationHandler) -> None:
        client = Redis.from_url(
            self._url,
            protocol=2,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        pubsub = client.pubsub()
        writing = asyncio.Lock()
        try:
            await _bounded(pubsub.subscribe(_OWN_CHANNEL))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(pubsub, handler, writing))
                group.create_task(self._subscribe(pubsub, writing))
        finally:
            for close in (pubsub.aclose, client.aclose):
                with contextlib.suppress(RedisError, OSError, TimeoutError):
                    await _bounded(close())

    async def _read(self, pubsub: PubSub, handler: NotificationHandler, writing: asyncio.Lock) -> None:
        is_pinged = False
        while True:
            message: dict[str, Any] | None = await pubsub.get_message(timeout=_SILENCE_SECONDS)
            if message is None:
                if is_pinged:
                    raise TimeoutError("Redis does not answer.")
                async with writing:
                    await _bounded(pubsub.ping())
                is_pinged = True
                continue
            is_pinged = False
            self._dispatch(message, handler)

    def _dispatch(self, message: dict[str, Any], handler: NotificationHandler) -> None:
        if message["type"] not in ("message", "subscribe"):
            return
        channel = message["channel"].decode()
        if channel == _OWN_CHANNEL:
            self.is_connected = True
            return
        if channel == ACCOUNTS_CHANNEL:
            if self._account_handler is not None and message["type"] == "subscribe":
                self._account_handler.accounts_subscribed()
            elif self._account_handler is not None:
                self._account_handler.accounts_changed()
            return
        deployment_id = self._wanted.get(channel)
        if deployment_id is None:
            return
        if message["type"] == "subscribe":
            handler.subscribed(deployment_id)
        else:
            handler.notified(deployment_id, decode_notification(message["data"]))

    async def _subscribe(self, pubsub: PubSub, writing: asyncio.Lock) -> None:
        """Subscribes and unsubscribes whenever the wanted channels change."""
        current: set[str] = set()
        while True:
            self._changed.clear()
            wanted = set(self._wanted)
            if self._account_handler is not None:
                wanted.add(ACCOUNTS_CHANNEL)
            async with writing:
                if added := wanted - current:
                    await _bounded(pubsub.subscribe(*added))
                if removed := current - wanted:
                    await _bounded(pubsub.unsubscribe(*removed))
            current = wanted
            await self._changed.wait()


async def _bounded(awaitable: Awaitable[Any]) -> None:
    async with asyncio.timeout(_TIMEOUT_SECONDS):
        await awaitable
