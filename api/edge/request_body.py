"""The body of one request: it must come fast enough, it is counted while it is held, and its rest is dealt with."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from litestar.types import HTTPReceiveMessage, HTTPScope, Receive

from api.edge.body_budget import HeldBody
from shared.errors import CloudifyError, ErrorCode
from shared.network.client_addresses import network_of

# A body of at most so many bytes that nobody wanted is read, so that its connection can be used again.
_SMALL_REST_BYTES = 64 * 1024
# Of a larger one so much is read and so long: a client that is still sending sees the answer before the end.
_LINGERING_BYTES = 1024 * 1024
_LINGERING_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class BodyPace:
    """A body must come within `grace_seconds` and one second more for each `bytes_per_second` that have come, and in
    `deadline_seconds` at most. Only the time counts in which the application waits for the client."""

    grace_seconds: float = 10.0
    bytes_per_second: int = 4096
    deadline_seconds: float = 120.0


class ClientLeft(CloudifyError):
    """The client closed the connection before its body was complete. Nobody sees the answer."""

    code = ErrorCode.REQUEST_TIMEOUT


class RequestBody:
    """Used by one task. `scope` is the one that the application gets: the guard enters the user there."""

    def __init__(self, scope: HTTPScope, receive: Receive, *, pace: BodyPace, held: HeldBody) -> None:
        self._scope = scope
        self._receive = receive
        self._pace = pace
        self._held = held
        # None for a body whose length isn't known beforehand.
        self._declared_bytes = _declared_bytes(scope)
        # The client sends no body before it is asked to: by "100 Continue", when the application receives.
        self._is_withheld = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"]
        )
        self._received_bytes = 0
        self._waited_seconds = 0.0
        self.is_complete = self._declared_bytes == 0
        self.has_client_left = False

    async def receive(self, *, is_answered: bool) -> HTTPReceiveMessage:
        """The next message of the client. Once the request `is_answered`, nothing is counted and a slow or missing
        client is a disconnect; before, CloudifyError (REQUEST_TIMEOUT), ClientLeft and Unavailable are raised."""
        if self.is_complete:
            return await self._next()
        self._is_withheld = False
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self._seconds_left())):
                message = await self._next()
        except TimeoutError:
            if is_answered:
                return {"type": "http.disconnect"}
            raise CloudifyError(
                "The body comes too slowly; send it again over a faster connection.", code=ErrorCode.REQUEST_TIMEOUT
            ) from None
        self._waited_seconds += time.monotonic() - began
        if message["type"] == "http.request":
            size = self._take(message)
            self._received_bytes += size
            if not is_answered:
                self._held.grow(self._caller(), size)
        elif not is_answered:
            self.has_client_left = True
            raise ClientLeft("The client left before its request was complete.")
        return message

    def release(self) -> None:
        """From here on nothing is kept of what comes."""
        self._held.release()

    async def look_for_end(self) -> None:
        """A chunked body that nobody wanted may be there to its end, as an empty one mostly is. Waits for nothing."""
        if self.is_complete or self._declared_bytes is not None or self._is_withheld:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                self._take(await self._next())

    def is_rest_small(self) -> bool:
        """Whether a small rest comes. One that was withheld never comes, and the next request would be taken for it."""
        if self._declared_bytes is None or self._is_withheld:
            return False
        return self._declared_bytes - self._received_bytes <= _SMALL_REST_BYTES

    async def discard_rest(self) -> None:
        """Without this the client's end of the connection would be reset, and the answer lost with it."""
        left = _LINGERING_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGERING_SECONDS):
                while left > 0 and not self.is_complete:
                    left -= self._take(await self._next())

    async def _next(self) -> HTTPReceiveMessage:
        message = await self._receive()
        assert message["type"] == "http.request" or message["type"] == "http.disconnect"
        return message

    def _take(self, message: HTTPReceiveMessage) -> int:
        """The size of the message's part of the body. After a disconnect nothing more comes."""
        if message["type"] == "http.disconnect":
            self.is_complete = True
            return 0
        # ASGI lets servers leave these out.
        self.is_complete = not message.get("more_body", False)
        return len(message.get("body", b""))

    def _seconds_left(self) -> float:
        allowed = self._pace.grace_seconds + self._received_bytes / self._pace.bytes_per_second
        return min(allowed, self._pace.deadline_seconds) - self._waited_seconds

    def _caller(self) -> str:
        """The user that the guard has found, else the address; of IPv6 the /48, which an organisation gets."""
        user, client = self._scope.get("user"), self._scope.get("client")
        if user is not None:
            return user.user_id
        return network_of(client[0], ipv6_bits=48) if client else ""


def _declared_bytes(scope: HTTPScope) -> int | None:
    """None when the length isn't known. The server has checked the header."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return 0
