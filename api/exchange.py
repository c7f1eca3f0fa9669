"""What holds for every exchange, errors of any layer included: request id, headers, HEAD, log line, metrics.

It wraps the whole application, because Litestar's own middleware never sees a 404 or 405.
"""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar
from typing import Any

import msgspec
import structlog
from litestar import Litestar
from litestar.types import Message, Receive, Scope, Send

from schemas.envelope import ErrorBody, Failure
from shared.errors import ErrorCode
from shared.metrics import observe_request

API_VERSION = "2026-02-12"

_REQUEST_ID = re.compile(rb"[\w-]{1,64}", re.ASCII)

_HEADERS: tuple[tuple[bytes, bytes], ...] = (
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

_log = structlog.get_logger("api")
_started: ContextVar[float] = ContextVar("started")


def request_id_of(scope: Any) -> str:
    return scope["state"]["request_id"]


def elapsed_ms() -> float:
    """Milliseconds since the request of this task began, to the microsecond."""
    return round((time.perf_counter() - _started.get()) * 1000, 3)


class Application(Litestar):
    """Litestar inside the exchange."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await _Exchange(scope, receive, send).run(super().__call__)
        else:
            await super().__call__(scope, receive, send)


class _Exchange:
    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
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

    async def run(self, application: Any) -> None:
        _started.set(self._began)
        with structlog.contextvars.bound_contextvars(request_id=self._request_id):
            try:
                await application(self._scope, self._receive_message, self._send_message)
            except Exception:
                _log.exception("unhandled_error")
                if self._status:
                    raise
                await self._send_last_resort()
            finally:
                self._report()

    async def _receive_message(self) -> Any:
        if self._is_head and self._status:
            # The answer to HEAD ends with its headers; a stream that waits for its client to leave sees it leave.
            return {"type": "http.disconnect"}
        return await self._receive()

    async def _send_message(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = list(message.get("headers", []))
            present = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in _HEADERS if name not in present]
            headers.append((b"x-request-id", self._request_id.encode()))
            await self._send({**message, "headers": headers})  # pyright: ignore[reportArgumentType]
            if self._is_head:
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not self._is_head:
            await self._send(message)

    async def _send_last_resort(self) -> None:
        error = ErrorBody(
            code=ErrorCode.INTERNAL.value,
            message="Something went wrong on our side; if it stays, report it with the request id.",
            request_id=self._request_id,
        )
        body = msgspec.json.encode(Failure(error=error))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send_message({"type": "http.response.start", "status": 500, "headers": headers})
        await self._send_message({"type": "http.response.body", "body": body, "more_body": False})

    def _report(self) -> None:
        seconds = time.perf_counter() - self._began
        route = self._scope.get("path_template") or "unmatched"
        known = self._method if self._method in _METHODS else "OTHER"
        observe_request(route, known, self._status, seconds)
        _log.info("request", method=known, route=route, status=self._status, milliseconds=round(seconds * 1000, 1))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _request_id(scope: Any) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return f"req_{secrets.token_hex(10)}"
