"""The middleware of every request, errors of any layer included: `Host`, request id, headers, HEAD, bodies, log line,
metrics.

It wraps the whole application, because Litestar's own middleware never sees a 404 or 405.
"""

from __future__ import annotations

import re
import secrets
import time
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import cast

import msgspec
import structlog
from litestar import Litestar
from litestar.types import (
    ASGIApp,
    HTTPReceiveMessage,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
    HTTPScope,
    Message,
    Receive,
    Scope,
    Send,
)
from litestar.types.asgi_types import LifeSpanReceive, LifeSpanScope, LifeSpanSend

from api.edge.body_budget import BodyBudget, HeldBody
from api.edge.request_body import BodyPace, RequestBody
from schemas.envelope import ErrorBody, Failure
from shared.errors import ErrorCode
from shared.hosts import Hosts
from shared.metrics import observe_request
from shared.network.client_addresses import TrustedProxies
from shared.tracing import Span, span

API_VERSION = "2026-02-12"

_REQUEST_ID = re.compile(rb"[\w-]{1,64}", re.ASCII)

# Of every answer, also of the server's own.
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

# Path and query. Our longest addresses hold cursors, of a few hundred bytes.
MAXIMUM_TARGET_BYTES = 4 * 1024
MAXIMUM_PARAMETERS = 64

# nginx's status for a client that left; it is logged and counted, never sent.
_CLIENT_LEFT = 499
_REQUEST_TIMEOUT = 408

_PROBES = "/api/health"

_log = structlog.get_logger("api")
_started: ContextVar[float] = ContextVar("started")


def request_id_of(scope: Scope) -> str:
    request_id: str = scope["state"]["request_id"]
    return request_id


def elapsed_ms() -> float:
    """Milliseconds since the request of this task began, to the microsecond."""
    return round((time.perf_counter() - _started.get()) * 1000, 3)


_NO_NAMES = Hosts()
_NO_PROXIES = TrustedProxies()
_USUAL_PACE = BodyPace()
_USUAL_BUDGET = BodyBudget()


_EMPTY_BODY: HTTPResponseBodyEvent = {"type": "http.response.body", "body": b"", "more_body": False}
_LAST_RESORT = "Something went wrong on our side; if it persists, report it with the request id."
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Application(Litestar):
    """Litestar inside the middleware. `state` may have `hosts` (Hosts), `body_pace`, `body_budget`, and
    `trusted_proxies` (TrustedProxies), which say who the client is; nothing inside asks for the connection's peer."""

    async def __call__(
        self, scope: Scope | LifeSpanScope, receive: Receive | LifeSpanReceive, send: Send | LifeSpanSend
    ) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
            return
        http = cast(HTTPScope, scope)
        proxies = self.state.get("trusted_proxies", _NO_PROXIES)
        http["client"] = proxies.client_of(http.get("client"), http["headers"])
        lifecycle = _RequestLifecycle(
            http,
            cast(Receive, receive),
            cast(Send, send),
            hosts=self.state.get("hosts", _NO_NAMES),
            pace=self.state.get("body_pace", _USUAL_PACE),
            held=HeldBody(self.state.get("body_budget", _USUAL_BUDGET)),
        )
        await lifecycle.run(super().__call__)


class _RequestLifecycle:
    """One request, from its head to its line in the log."""

    def __init__(
        self, scope: HTTPScope, receive: Receive, send: Send, *, hosts: Hosts, pace: BodyPace, held: HeldBody
    ) -> None:
        # Of any name: clients may send one that isn't HTTP's.
        self._method = str(scope["method"])
        self._is_head = self._method == "HEAD"
        self._request_id = _request_id(scope)
        self._began = time.perf_counter()
        self._scope = scope.copy()
        self._scope["state"] = {**(scope.get("state") or {}), "request_id": self._request_id}
        if self._is_head:
            # HEAD is GET without the body.
            self._scope["method"] = "GET"
        self._send = send
        self._status = 0
        self._hosts = hosts
        self._body = RequestBody(self._scope, receive, pace=pace, held=held)
        self._is_lingering = False

    async def run(self, application: ASGIApp) -> None:
        _started.set(self._began)
        with self._span() as span, structlog.contextvars.bound_contextvars(request_id=self._request_id):
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
                self._report(span)

    async def _receive_message(self) -> HTTPReceiveMessage:
        if self._is_head and self._status:
            # The answer to HEAD ends with its headers; a stream that waits for its client to leave sees it leave.
            return {"type": "http.disconnect"}
        return await self._body.receive(is_answered=self._status != 0)

    async def _refuse_target(self) -> bool:
        """Whether the request was refused because of its address, before that is parsed and logged."""
        query = self._scope["query_string"]
        length = len(self._scope["path"]) + len(query)
        if length <= MAXIMUM_TARGET_BYTES and query.count(b"&") < MAXIMUM_PARAMETERS:
            return False
        most = f"{MAXIMUM_TARGET_BYTES // 1024} KiB or has more than {MAXIMUM_PARAMETERS} query parameters"
        await self._send_error(413, ErrorCode.PAYLOAD_TOO_LARGE, f"The address is longer than {most}; send less.")
        return True

    async def _refuse_host(self) -> bool:
        """Whether the request was refused because of its `Host`."""
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
            await self._send_head(message)
        elif self._is_lingering and message["type"] == "http.response.body" and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._body.discard_rest()
            await self._send(_EMPTY_BODY)
        elif not self._is_head:
            await self._send(message)

    async def _send_head(self, message: HTTPResponseStartEvent) -> None:
        self._status = message["status"]
        self._body.release()
        headers = list(message.get("headers", []))
        present = {name.lower() for name, _ in headers}
        headers += [(name, value) for name, value in EDGE_HEADERS if name not in present]
        headers.append((b"x-request-id", self._request_id.encode()))
        is_slow = self._status == _REQUEST_TIMEOUT
        await self._body.look_for_end()
        if not self._body.is_complete and (is_slow or not self._body.is_rest_small()):
            headers.append((b"connection", b"close"))
            self._is_lingering = not self._is_head and not is_slow
        await self._send({**message, "headers": headers})
        if self._is_head:
            await self._send(_EMPTY_BODY)

    async def _send_error(self, status: int, code: ErrorCode, text: str) -> None:
        error = ErrorBody(code=code.value, message=text, request_id=self._request_id)
        body = msgspec.json.encode(Failure(error=error))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send_message({"type": "http.response.start", "status": status, "headers": headers})
        await self._send_message({"type": "http.response.body", "body": body, "more_body": False})

    def _span(self) -> AbstractContextManager[Span]:
        """The first span of a trace, or one of the client's trace. Probes come every few seconds and say nothing."""
        given = next((value for name, value in self._scope["headers"] if name == b"traceparent"), b"")
        is_probe = self._scope["path"].startswith(_PROBES)
        return span(
            "request",
            {"cloudify.request_id": self._request_id},
            parent=given.decode("latin-1"),
            kind="server",
            is_exported=not is_probe,
        )

    def _report(self, span: Span) -> None:
        seconds = time.perf_counter() - self._began
        route = self._scope.get("path_template") or "unmatched"
        known = self._method if self._method in _METHODS else "OTHER"
        status = _CLIENT_LEFT if self._body.has_client_left else self._status
        observe_request(route, known, status, seconds)
        span.rename(f"{known} {route}")
        span.set("http.request.method", known)
        span.set("http.route", route)
        span.set("http.response.status_code", status)
        if status >= 500:
            span.fail(str(status))
        _log.info("request", method=known, route=route, status=status, milliseconds=round(seconds * 1000, 1))


def _request_id(scope: HTTPScope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return new_request_id()


def new_request_id() -> str:
    return f"req_{secrets.token_hex(10)}"
