"""HTTP to a server that a tenant chose: the caller can end every wait, however slowly the server sends.

A timeout of httpx is for one read, so a server that sends a byte now and then never times out. Here every wait for a
socket (to connect, for TLS, the head and the content) checks at short intervals whether there is time left.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import httpcore
import httpx

T = TypeVar("T")

# The longest time between two checks whether there is time left.
_POLL_SECONDS = 0.25
# How long idle connections are kept; the default of httpx.
_KEEPALIVE_SECONDS = 5.0


class BoundedTransport(httpx.BaseTransport):
    """Connects to IP addresses only; resolves no names. Sends nothing twice. Not shared between threads.

    `check_time` is called before, during and after every wait; an exception that it raises ends the request. `proxy` is
    the URL of an HTTP proxy on this host, with its credentials.
    """

    def __init__(self, check_time: Callable[[], None], context: ssl.SSLContext, proxy: str | None = None) -> None:
        backend = _Backend(check_time)
        if proxy is None:
            self._pool = httpcore.ConnectionPool(
                context, keepalive_expiry=_KEEPALIVE_SECONDS, retries=0, network_backend=backend
            )
        else:
            upstream = httpx.Proxy(proxy)
            self._pool = httpcore.HTTPProxy(
                str(upstream.url),
                upstream.raw_auth,
                ssl_context=context,
                keepalive_expiry=_KEEPALIVE_SECONDS,
                network_backend=backend,
            )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        with _errors_of_httpx():
            response = self._pool.handle_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            response.status, headers=response.headers, stream=_Content(response), extensions=response.extensions
        )

    def close(self) -> None:
        self._pool.close()


class _Content(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _errors_of_httpx():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


@contextmanager
def _errors_of_httpx() -> Generator[None]:
    """Translates exceptions: httpx has a class of the same name for each of these."""
    try:
        yield
    except (
        httpcore.TimeoutException,
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.UnsupportedProtocol,
    ) as error:
        raise getattr(httpx, type(error).__name__, httpx.TransportError)(str(error)) from error


@contextmanager
def _errors_of_httpcore(late: type[Exception], broken: type[Exception]) -> Generator[None]:
    try:
        yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except OSError as error:
        raise broken(str(error)) from error


class _Backend(httpcore.NetworkBackend):
    def __init__(self, check_time: Callable[[], None]) -> None:
        self._check_time = check_time

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        with _errors_of_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError):
            connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
            stream = _Stream(connection, self._check_time)
            stream.connect(host, port, timeout)
        return stream


class _Stream(httpcore.NetworkStream):
    def __init__(self, connection: socket.socket, check_time: Callable[[], None]) -> None:
        connection.settimeout(0)
        self._connection = connection
        self._check_time = check_time

    def connect(self, host: str, port: int, timeout: float | None) -> None:
        with self._closed_on_failure():
            self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._wait_for(partial(_connect, self._connection, (host, port)), select.POLLOUT, timeout)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with _errors_of_httpcore(httpcore.ReadTimeout, httpcore.ReadError):
            return self._wait_for(partial(self._connection.recv, max_bytes), select.POLLIN, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        with _errors_of_httpcore(httpcore.WriteTimeout, httpcore.WriteError):
            while buffer:
                sent = self._wait_for(partial(self._connection.send, buffer), select.POLLOUT, timeout)
                buffer = buffer[sent:]

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with _errors_of_httpcore(httpcore.ConnectTimeout, httpcore.ConnectError), self._closed_on_failure():
            wrapped = ssl_context.wrap_socket(
                self._connection, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            self._connection = wrapped
            self._wait_for(wrapped.do_handshake, select.POLLIN, timeout)
        return self

    def close(self) -> None:
        self._connection.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._connection if isinstance(self._connection, ssl.SSLSocket) else None
        return self._is_ready(select.POLLIN, 0) if info == "is_readable" else None

    def _wait_for(self, action: Callable[[], T], event: int, timeout: float | None) -> T:
        """Calls `action` until it doesn't block. Raises TimeoutError, OSError, and what `check_time` raises."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self._check_time()
            try:
                return action()
            except ssl.SSLWantReadError:
                event = select.POLLIN
            except ssl.SSLWantWriteError:
                event = select.POLLOUT
            except BlockingIOError:
                pass
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"nothing came for {timeout} seconds")
            self._is_ready(event, _POLL_SECONDS)

    def _is_ready(self, event: int, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._connection, event)
        return bool(poll.poll(seconds * 1000))

    @contextmanager
    def _closed_on_failure(self) -> Generator[None]:
        try:
            yield
        except BaseException:
            self.close()
            raise


def _connect(connection: socket.socket, address: tuple[str, int]) -> None:
    """Called again until the connection is made or fails. Raises BlockingIOError in between."""
    result = connection.connect_ex(address)
    if result in (errno.EINPROGRESS, errno.EALREADY):
        raise BlockingIOError
    if result not in (0, errno.EISCONN):
        raise OSError(result, os.strerror(result))
