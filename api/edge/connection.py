"""A connection of the server: uvicorn's, with bounds and a graceful end.

- The connections of one address are bounded, and so is their total (api.edge.places). Loopback counts only in the
  total: the proxies of this machine connect from there.
- A request's head is bounded, and so is what surrounds the bytes of a body (chunk sizes, trailers).
- Few requests wait behind the one that is being answered, and nothing is read while one waits.
- The host of an absolute request target replaces the `Host` header (RFC 9112, 3.2.2).
- An idle connection is only closed when nothing has arrived on it, so that no request is dropped that the process could
  still answer; while the server drains, every answer says `Connection: close`.
"""

from __future__ import annotations

import asyncio
import math
import select
import time
from collections.abc import Sized
from typing import Protocol, cast

import httptools
import msgspec
import structlog
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.edge.places import Places
from api.middleware import EDGE_HEADERS, new_request_id
from schemas.envelope import ErrorBody, Failure
from shared.errors import ErrorCode
from shared.network.client_addresses import network_of

# Node.js's limit. The headers of a proxy and of a browser with its cookies fit well.
MAXIMUM_HEAD_BYTES = 16 * 1024
# Each costs the application time before the caller is known. Trailers count, too.
MAXIMUM_HEADERS = 100
# Requests that wait behind the one that is being answered. Clients that send many wait for answers.
MAXIMUM_WAITING = 4
# A colon, a space and the end of the line.
_BETWEEN_HEADERS = 4
# A chunk of one byte is five more on the wire.
_OVERHEAD_OF_A_BYTE = 8
_LOOK_AGAIN_SECONDS = 0.1

_log = structlog.get_logger("api")


class ConnectionState(ServerState):
    """What the connections of a server share."""

    def __init__(self, places: Places | None = None) -> None:
        super().__init__()
        self.is_draining = False
        self.places = places or Places()
        self._refusal_told_at = -math.inf

    def tell_refusal(self, host: str) -> None:
        """Logs at most one refused connection a second, however many are refused."""
        now = time.monotonic()
        if now - self._refusal_told_at < 1:
            return
        self._refusal_told_at = now
        of_address = self.places.is_address_full(host)
        bound = "CLOUDIFY_API_CONNECTIONS_PER_ADDRESS" if of_address else "RLIMIT_NOFILE"
        _log.warning("connection_refused", address=network_of(host), setting=bound)


class _Refused(Exception):
    """Stops the parser, which would otherwise parse the rest of the data that was read. The connection has ended."""


class _Target(Protocol):
    """A parsed request target; httptools' own types don't tell that parts may be missing."""

    host: bytes | None
    port: int | None


class _Flow(FlowControl):
    """uvicorn's, but reads nothing while requests wait: uvicorn resumes after each answer, however many wait."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    # The latest request; uvicorn declares that there always is one.
    cycle: RequestResponseCycle | None  # pyright: ignore[reportIncompatibleVariableOverride]
    _answering: RequestResponseCycle | None = None
    _is_in_head = True
    # In the latest read.
    _has_ended_message = False
    _has_ended_head = False
    _read_body_bytes = 0
    # Of the head: bytes read while it was incomplete, and bytes that the parser has reported so far.
    _read_head_bytes = 0
    _head_bytes = 0
    _header_count = 0
    _body_bytes = 0
    _overhead = 0

    @property
    def _state(self) -> ConnectionState:
        state = self.server_state
        assert isinstance(state, ConnectionState)
        return state

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        host = self.client[0] if self.client else ""
        if not self._state.places.take(self, host):
            self._state.tell_refusal(host)
            message = "Too many connections, from this address or in all; close some, then retry."
            self._answer(503, ErrorCode.UNAVAILABLE, message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.places.give_back(self)
        super().connection_lost(exc)
        # uvicorn tells the request that came last, which need not be the one that is being answered.
        self.pipeline.clear()
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        self._has_ended_message = self._has_ended_head = False
        self._read_body_bytes = 0
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_in_head:
            # Bytes before the head in the same read aren't the head's; such a read isn't counted.
            self._read_head_bytes += 0 if self._has_ended_message else len(data)
            if self._read_head_bytes > MAXIMUM_HEAD_BYTES:
                self._cut_off()
        elif self.cycle is not None and self.cycle.more_body:
            head_bytes = self._head_bytes if self._has_ended_head else 0
            self._overhead += max(0, len(data) - self._read_body_bytes - head_bytes)
            if self._overhead > MAXIMUM_HEAD_BYTES + _OVERHEAD_OF_A_BYTE * self._body_bytes:
                self._cut_off()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._read_head_bytes = self._head_bytes = self._header_count = 0

    def on_url(self, url: bytes) -> None:
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._count_head(len(name) + len(value) + _BETWEEN_HEADERS)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAXIMUM_WAITING:
            self.transport.abort()
            raise _Refused
        self._is_in_head = False
        self._has_ended_head = True
        self._body_bytes = self._overhead = 0
        if not self.url.startswith((b"/", b"*")):
            self._take_host_of_target()
        super().on_headers_complete()
        if self._state.is_draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        # From now on data belongs to the next request.
        self._has_ended_message = self._is_in_head = True
        self._read_head_bytes = 0

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._read_body_bytes += len(body)
        super().on_body(body)

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing() and self._has_unread_data():
            # A busy loop hasn't read it yet. Reading it ends this timer.
            self.timeout_keep_alive_task = self.loop.call_later(_LOOK_AGAIN_SECONDS, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, ErrorCode.MALFORMED_JSON, "The request is not valid HTTP/1.1; send one that is.")

    @property
    def is_idle(self) -> bool:
        """Nothing is being answered."""
        return not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)

    def give_way(self) -> None:
        self.transport.abort()

    def begin_draining(self) -> None:
        """The current answer says that the connection closes. An idle connection answers one more request."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        if not (self.is_idle and self._has_unread_data()):
            super().shutdown()

    def _has_unread_data(self) -> bool:
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _take_host_of_target(self) -> None:
        target = cast(_Target, httptools.parse_url(self.url))
        host = target.host
        if host is None:
            return
        authority = b"[" + host + b"]" if b":" in host else host
        if target.port is not None:
            authority += b":" + str(target.port).encode()
        self.headers[:] = [(b"host", authority), *(header for header in self.headers if header[0] != b"host")]

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _count_head(self, count: int) -> None:
        self._head_bytes += count
        if self._head_bytes > MAXIMUM_HEAD_BYTES or self._header_count > MAXIMUM_HEADERS:
            self._cut_off()
            raise _Refused

    def _cut_off(self) -> None:
        if self._is_in_head:
            most = f"{MAXIMUM_HEAD_BYTES // 1024} KiB or has more than {MAXIMUM_HEADERS} headers"
            self._refuse(413, ErrorCode.PAYLOAD_TOO_LARGE, f"The request's head is larger than {most}; send less.")
        else:
            self.transport.abort()

    def _refuse(self, status: int, code: ErrorCode, message: str) -> None:
        """Ends the connection, with an answer only where nobody can take it for another request's."""
        if self.transport.is_closing():
            return
        if self._is_next_to_answer():
            self._answer(status, code, message)
        else:
            self.transport.abort()

    def _is_next_to_answer(self) -> bool:
        """Whether the request that is being read is the only one without an answer."""
        if self._is_in_head:
            return self.cycle is None or self.cycle.response_complete
        return self.cycle is not None and not self.cycle.response_started and not self.pipeline

    def _answer(self, status: int, code: ErrorCode, message: str) -> None:
        """Answers a request that the application doesn't see, in the envelope, and ends the connection."""
        request_id = new_request_id()
        body = msgspec.json.encode(Failure(error=ErrorBody(code=code.value, message=message, request_id=request_id)))
        headers = [*self.server_state.default_headers, *EDGE_HEADERS, (b"content-type", b"application/json")]
        headers += [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        headers.append((b"x-request-id", request_id.encode()))
        if status == 503:
            headers.append((b"retry-after", b"5"))
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.transport.close()
