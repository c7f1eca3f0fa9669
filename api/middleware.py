"""What holds for every exchange, errors of any layer included: `Host`, request id, headers, HEAD, slow bodies, log
line, metrics.

It wraps the whole application, because Litestar's own middleware never sees a 404 or 405.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from litestar import Litestar
from litestar.types import Message, Receive, Scope, Send

from api.edge.body_budget import BodyBudget, HeldBody
from schemas.envelope import ErrorBody, Failure
from shared.errors import CloudifyError, ErrorCode
from shared.hosts import Hosts
from shared.metrics import observe_request
from shared.network.client_addresses import TrustedProxies, network_of

API_VERSION = "2026-02-12"

_REQUEST_ID = re.compile(rb"[\w-]{1,64}", re.ASCII)

# Of every answer, those of the server itself too.
EDGE_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"strict-transport-security", b"max-age=63072000; includeSubDomains"),
    (
        b"content-security-policy",
        b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; upgrade-insecure-requests",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-site"),
    (b"cache-control", b"no-store"),
    (b"api-version", API_VERSION.encode()),
)

# Path and query. The longest that we give are cursors, of a few hundred bytes.
MAXIMUM_TARGET_BYTES = 4 * 1024
MAXIMUM_PARAMETERS = 64

# A body of at most so many bytes that nobody wanted is read, so that its connection can be used again.
_SMALL_REST_BYTES = 64 * 1024
# Of a larger one so much is read and so long: a client that is still sending sees the answer before the end.
_LINGERING_BYTES = 1024 * 1024
_LINGERING_SECONDS = 1.0
# nginx's status for a client that left; it is logged and counted, nobody gets it.
_CLIENT_LEFT = 499
_REQUEST_TIMEOUT = 408

_log = structlog.get_logger("api")
_started: ContextVar[float] = ContextVar("started")


def request_id_of(scope: Any) -> str:
    return scope["state"]["request_id"]


def elapsed_ms() -> float:
    """Milliseconds since the request of this task began, to the microsecond."""
    return round((time.perf_counter() - _started.get()) * 1000, 3)


@dataclass(frozen=True, slots=True)
class BodyPace:
    """A body must come within `grace_seconds` and one second more for each `bytes_per_second` that have come, and in
    `deadline_seconds` at most. Only the time counts in which the application waits for the client."""

    grace_seconds: float = 10.0
    bytes_per_second: int = 4096
    deadline_seconds: float = 120.0


_NO_NAMES = Hosts()
_NO_PROXIES = TrustedProxies()
_USUAL_PACE = BodyPace()
_USUAL_BUDGET = BodyBudget()


class ClientLeft(CloudifyError):
    """The client closed the connection before its body was complete. Nobody sees the answer."""

    code = ErrorCode.REQUEST_TIMEOUT


class Application(Litestar):
    """Litestar inside the exchange. `state` may have `hosts` (Hosts), `body_pace`, `body_budget`, and `trusted_proxies`
    (TrustedProxies), which say who the client is; nothing inside asks for the connection's peer."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            hosts, pace = self.state.get("hosts", _NO_NAMES), self.state.get("body_pace", _USUAL_PACE)
            proxies = self.state.get("trusted_proxies", _NO_PROXIES)
            scope["client"] = proxies.client_of(scope.get("client"), scope["headers"])
            body = HeldBody(self.state.get("body_budget", _USUAL_BUDGET))
            exchange = _Exchange(scope, receive, send, hosts=hosts, pace=pace, body=body)
            await exchange.run(super().__call__)
        else:
            await super().__call__(scope, receive, send)


class _Exchange:
    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, hosts: Hosts, pace: BodyPace, body: HeldBody
    ) -> None:
        self._method = scope["method"]  # pyright: ignore[reportTypedDictNotRequiredAccess, reportGeneralTypeIssues]
        self._is_head = self._method == "HEAD"
        state = dict(scope.get("state") or {})
        self._request_id = _request_id(scope)
        state["request_id"] = self._request_id
        self._began = time.perf_counter()
        # HEAD is GET without the body.
        self._scope: Any = {**scope, "state": state, "method": "GET" if self._is_head else self._method}
        self._receive = receive
        self._send = send
        self._status = 0
        self._hosts = hosts
        self._pace = pace
        self._body = body
        # None for a body whose length isn't known beforehand.
        self._declared_bytes = _declared_bytes(scope)
        self._has_whole_body = self._declared_bytes == 0
        # The client sends no body before it is asked to: by "100 Continue", when the application receives.
        self._is_body_withheld = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"]
        )
        self._received_bytes = 0
        self._waited_seconds = 0.0
        self._is_lingering = False
        self._has_client_left = False

    async def run(self, application: Any) -> None:
        _started.set(self._began)
        with structlog.contextvars.bound_contextvars(request_id=self._request_id):
            try:
                if not await self._refuse_target() and not await self._refuse_host():
                    await application(self._scope, self._receive_message, self._send_message)
            except Exception:
                _log.exception("unhandled_error")
                if self._status:
                    raise
                await self._send_error(500, ErrorCode.INTERNAL, _LAST_RESORT)
            finally:
                self._body.release()
                self._report()

    async def _receive_message(self) -> Any:
        if self._is_head and self._status:
            # The answer to HEAD ends with its headers; a stream that waits for its client to leave sees it leave.
            return {"type": "http.disconnect"}
        return await self._receive() if self._has_whole_body else await self._receive_body()

    async def _receive_body(self) -> Any:
        self._is_body_withheld = False
        allowed = self._pace.grace_seconds + self._received_bytes / self._pace.bytes_per_second
        left = min(allowed, self._pace.deadline_seconds) - self._waited_seconds
        began = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                message: Any = await self._receive()
        except TimeoutError:
            if self._status:
                return {"type": "http.disconnect"}
            raise CloudifyError(
                "The body comes too slowly; send it again over a faster connection.", code=ErrorCode.REQUEST_TIMEOUT
            ) from None
        self._waited_seconds += time.monotonic() - began
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._received_bytes += size
            self._has_whole_body = not message.get("more_body", False)
            if not self._status:
                self._body.grow(self._caller(), size)
        elif not self._status:
            self._has_client_left = True
            raise ClientLeft("The client left before its request was complete.")
        return message

    def _caller(self) -> str:
        """The user that the guard has found, else the address; of IPv6 the /48, which an organisation gets."""
        user, client = self._scope.get("user"), self._scope.get("client")
        if user is not None:
            return user.user_id
        return network_of(client[0], ipv6_bits=48) if client else ""

    async def _refuse_target(self) -> bool:
        """Whether the request was answered because of its address: what follows takes it apart, and remembers it."""
        query: bytes = self._scope["query_string"]
        length = len(self._scope["path"]) + len(query)
        if length <= MAXIMUM_TARGET_BYTES and query.count(b"&") < MAXIMUM_PARAMETERS:
            return False
        most = f"{MAXIMUM_TARGET_BYTES // 1024} KiB or has more than {MAXIMUM_PARAMETERS} query parameters"
        await self._send_error(413, ErrorCode.PAYLOAD_TOO_LARGE, f"The address is longer than {most}; send less.")
        return True

    async def _refuse_host(self) -> bool:
        """Whether the request was answered because of its `Host`."""
        given = [value for name, value in self._scope["headers"] if name == b"host"]
        is_old = self._scope.get("http_version") == "1.0"
        if len(given) > 1 or not (is_old or (given and given[0])):
            await self._send_error(400, ErrorCode.MALFORMED_JSON, "A request must have exactly one Host header.")
            return True
        if not given or self._hosts.admits(given[0].decode("latin-1")):
            return False
        host = given[0][:100].decode("ascii", "replace")
        message = f"This API doesn't answer to {host!r}; use its address, or add the name to CLOUDIFY_API_HOSTS."
        await self._send_error(421, ErrorCode.MISDIRECTED_REQUEST, message)
        return True

    async def _send_message(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            # From here on nothing is kept of what comes.
            self._body.release()
            headers = list(message.get("headers", []))
            present = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in EDGE_HEADERS if name not in present]
            headers.append((b"x-request-id", self._request_id.encode()))
            is_slow = self._status == _REQUEST_TIMEOUT
            if not self._has_whole_body and self._declared_bytes is None and not self._is_body_withheld:
                await self._look_for_end()
            if not self._has_whole_body and (is_slow or not self._is_rest_small()):
                headers.append((b"connection", b"close"))
                self._is_lingering = not self._is_head and not is_slow
            await self._send({**message, "headers": headers})  # pyright: ignore[reportArgumentType]
            if self._is_head:
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        elif self._is_lingering and message["type"] == "http.response.body" and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._discard_rest()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not self._is_head:
            await self._send(message)

    def _is_rest_small(self) -> bool:
        """Whether a small rest comes. One that was withheld never comes, and the next request would be taken for it."""
        if self._declared_bytes is None or self._is_body_withheld:
            return False
        return self._declared_bytes - self._received_bytes <= _SMALL_REST_BYTES

    async def _look_for_end(self) -> None:
        """A chunked body that nobody wanted may be there to its end, as an empty one mostly is. Waits for nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0):
                message: Any = await self._receive()
                self._has_whole_body = not message.get("more_body", False)

    async def _discard_rest(self) -> None:
        """Without this the client's end of the connection would be reset, and the answer lost with it."""
        left = _LINGERING_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGERING_SECONDS):
                while left > 0 and not self._has_whole_body:
                    message: Any = await self._receive()
                    left -= len(message.get("body", b""))
                    self._has_whole_body = not message.get("more_body", False)

    async def _send_error(self, status: int, code: ErrorCode, text: str) -> None:
        error = ErrorBody(code=code.value, message=text, request_id=self._request_id)
        body = msgspec.json.encode(Failure(error=error))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send_message({"type": "http.response.start", "status": status, "headers": headers})
        await self._send_message({"type": "http.response.body", "body": body, "more_body": False})

    def _report(self) -> None:
        seconds = time.perf_counter() - self._began
        route = self._scope.get("path_template") or "unmatched"
        known = self._method if self._method in _METHODS else "OTHER"
        status = _CLIENT_LEFT if self._has_client_left else self._status
        observe_request(route, known, status, seconds)
        _log.info("request", method=known, route=route, status=status, milliseconds=round(seconds * 1000, 1))


_LAST_RESORT = "Something went wrong on our side; if it stays, report it with the request id."
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _request_id(scope: Any) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return new_request_id()


def new_request_id() -> str:
    return f"req_{secrets.token_hex(10)}"


def _declared_bytes(scope: Any) -> int | None:
    """None when the length isn't known. The server has checked the header."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            return int(value) if value.isdigit() else None
    return 0
