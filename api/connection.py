"""A connection of the server: uvicorn's, with bounds and a graceful end.

- An address (a /64 of IPv6) has a bounded number of them. Loopback is not counted: proxies of this machine are there.
- A request's head is bounded, and so is what surrounds the bytes of a body (chunk sizes, trailers).
- The host of an absolute request target replaces the `Host` header (RFC 9112, 3.2.2).
- An idle connection is only closed when nothing has arrived on it, so that no request is dropped that the process could
  still answer; while the server drains, every answer says `Connection: close`.
"""

from __future__ import annotations

import ipaddress
import select
from collections import Counter
from collections.abc import Sequence
from typing import Any

import httptools
import msgspec
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.exchange import new_request_id
from schemas.envelope import ErrorBody, Failure
from shared.errors import ErrorCode
from shared.network.client_addresses import network_of

MAXIMUM_HEAD_BYTES = 32 * 1024
# A chunk of one byte is five more on the wire.
_OVERHEAD_OF_A_BYTE = 8
_LOOK_AGAIN_SECONDS = 0.1

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOOPBACK: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))

_log = structlog.get_logger("api")


class ConnectionState(ServerState):
    """What the connections of a server share. `most_of_an_address` is 0 for no bound."""

    def __init__(self, *, most_of_an_address: int = 0, uncounted: Sequence[Network] = LOOPBACK) -> None:
        super().__init__()
        self.is_draining = False
        self._most_of_an_address = most_of_an_address
        self._uncounted = uncounted
        self._counts: Counter[str] = Counter()

    def take_place(self, host: str) -> str | None:
        """The key to give back, empty for an address that isn't counted; None when the address has all its places."""
        if not self._most_of_an_address or self._is_uncounted(host):
            return ""
        key = network_of(host)
        if self._counts[key] >= self._most_of_an_address:
            return None
        self._counts[key] += 1
        return key

    def give_back(self, key: str) -> None:
        self._counts[key] -= 1
        if self._counts[key] <= 0:
            del self._counts[key]

    def _is_uncounted(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return True
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._uncounted)


class Connection(HttpToolsProtocol):
    # The request that is being answered or was answered last; uvicorn has it as one that is always there.
    cycle: RequestResponseCycle | None  # pyright: ignore[reportIncompatibleVariableOverride]
    _place = ""
    _is_in_head = True
    _has_ended_message = False
    _head_bytes = 0
    _body_bytes = 0
    _overhead = 0

    @property
    def _state(self) -> ConnectionState:
        state = self.server_state
        assert isinstance(state, ConnectionState)
        return state

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        host = self.client[0] if self.client else ""
        place = self._state.take_place(host)
        if place is None:
            _log.warning("connection_refused", address=network_of(host), reason="CLOUDIFY_API_CONNECTIONS_PER_ADDRESS")
            self._answer(503, ErrorCode.UNAVAILABLE, "Too many connections from this address; close some, then retry.")
        else:
            self._place = place

    def connection_lost(self, exc: Exception | None) -> None:
        if self._place:
            self._state.give_back(self._place)
            self._place = ""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        body_before = self._body_bytes
        self._has_ended_message = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_in_head:
            # What came before the head in the same read isn't the head's; of that read nothing is counted.
            self._head_bytes += 0 if self._has_ended_message else len(data)
            if self._head_bytes > MAXIMUM_HEAD_BYTES:
                self._cut_off()
        elif self.cycle is not None and self.cycle.more_body:
            self._overhead += len(data) - (self._body_bytes - body_before)
            if self._overhead > MAXIMUM_HEAD_BYTES + _OVERHEAD_OF_A_BYTE * self._body_bytes:
                self._cut_off()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        self._body_bytes = self._overhead = 0
        if not self.url.startswith((b"/", b"*")):
            self._take_host_of_target()
        super().on_headers_complete()
        if self._state.is_draining and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._has_ended_message = True

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing() and self._has_unread_data():
            # A busy loop hasn't read it yet. Reading it ends this timer.
            self.timeout_keep_alive_task = self.loop.call_later(_LOOK_AGAIN_SECONDS, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._answer(400, ErrorCode.MALFORMED_JSON, "The request is not valid HTTP/1.1.")

    @property
    def is_idle(self) -> bool:
        """Nothing is being answered."""
        return not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete)

    def begin_draining(self) -> None:
        """What is being answered says that the connection closes. An idle connection answers one more request."""
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
        target: Any = httptools.parse_url(self.url)
        host: bytes | None = target.host
        if host is None:
            return
        authority = b"[" + host + b"]" if b":" in host else host
        if target.port is not None:
            authority += b":" + str(target.port).encode()
        self.headers[:] = [(b"host", authority), *(header for header in self.headers if header[0] != b"host")]

    def _cut_off(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if self._is_in_head and not is_answering:
            message = f"The request's head is larger than {MAXIMUM_HEAD_BYTES // 1024} KiB; send less."
            self._answer(413, ErrorCode.PAYLOAD_TOO_LARGE, message)
        else:
            self.transport.abort()

    def _answer(self, status: int, code: ErrorCode, message: str) -> None:
        """For what no application sees: the envelope, and the end of the connection."""
        body = msgspec.json.encode(
            Failure(error=ErrorBody(code=code.value, message=message, request_id=new_request_id()))
        )
        headers = [*self.server_state.default_headers, (b"content-type", b"application/json")]
        headers += [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
        if status == 503:
            headers.append((b"retry-after", b"5"))
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.transport.close()
