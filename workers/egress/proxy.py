"""The only way out of a sandbox with network: an HTTP proxy on a port of its own loopback, one for each run.

Clones have one as well if an upstream proxy is set (workers/stages/clone/proxy.py).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from shared.errors import PlatformError
from shared.network.address_policy import Refused, Unresolvable
from workers.egress.accounts import Account, Accounts, Traffic
from workers.egress.policy import EgressPolicy
from workers.egress.tunnel import Tunnel
from workers.egress.upstream import UpstreamFailure, UpstreamProxy

_HEADER_BYTES = 32 * 1024
_HEADER_SECONDS = 15.0
_CONNECT_SECONDS = 10.0
_CONNECTIONS = 256
_SHORTAGE_SECONDS = 0.05
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)


class _BadRequest(Exception):
    pass


class EgressProxy:
    """Serves CONNECT and absolute-form `http://` requests, from construction until `close`.

    It accepts from `listener`: a listening socket that is its own from then on, or the path of a Unix socket over which
    listener.py sends it. Only the first connection counts, which is made before any code of the project runs; after it
    nothing listens at that path. With `credentials` (user:password), requests without them get 407. With `accounts`
    instead, many programs share it, each by its own credentials.

    The name is resolved here and the judged address is the one connected to. Refusals answer 403 with a one-line
    reason. `traffic` has the hosts that were refused or reached, as `host` or `host:port` for an unusual port.

    With `upstream`, everything outside the allowed networks is reached through it, including names that only it can
    resolve; hosts that the policy refuses stay refused.
    """

    def __init__(
        self,
        listener: Path | socket.socket,
        policy: EgressPolicy,
        upstream: UpstreamProxy | None = None,
        *,
        credentials: str = "",
        accounts: Accounts | None = None,
        connections: int = _CONNECTIONS,
    ) -> None:
        self._policy = policy
        self._upstream = upstream
        self._account = Account(credentials)
        self._accounts = accounts or self._account
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_closed = False
        self._is_serving = False
        self._slots = threading.BoundedSemaphore(connections)
        # Accepts first: a connection that brings the listener, or the listener's own.
        self._first = _listen_at(listener) if isinstance(listener, Path) else listener
        self._is_handed_over = isinstance(listener, Path)
        self._thread = threading.Thread(target=self._serve_all, name="egress-proxy", daemon=True)
        self._thread.start()

    def traffic(self) -> Traffic:
        """That of a proxy without `accounts`. May be called after `close`."""
        return self._account.traffic()

    def check_served(self) -> None:
        """Call it after a failed command. Raises PlatformError if the command never had its proxy: not its fault."""
        if not self._is_serving:
            raise PlatformError("The network proxy of a sandbox could not be handed its listener.")

    def close(self) -> None:
        """Ends every connection. May be called twice."""
        with self._lock:
            self._is_closed = True
            connections = list(self._open)
        for connection in (self._first, *connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=5)
        self._first.close()

    def _serve_all(self) -> None:
        with (
            contextlib.suppress(OSError),
            self._receive_listener() if self._is_handed_over else self._first as listener,
        ):
            # Like every connection it is shut down by `close`, which ends the wait in `accept`.
            if self._track(listener):
                self._accept(listener)

    def _receive_listener(self) -> socket.socket:
        """Raises OSError when the sandbox ends before it sends one."""
        client = self._accept_one(self._first)
        self._first.close()
        with client:
            _, received, _, _ = socket.recv_fds(client, 1, 1, socket.MSG_CMSG_CLOEXEC)
            if not received:
                raise ConnectionError("nothing was sent")
            listener = socket.socket(fileno=received[0])
            self._is_serving = True
            client.sendall(b"L")
            return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            self._slots.acquire()
            client = self._accept_one(listener)
            if not self._track(client):
                client.close()
                return
            threading.Thread(target=self._serve, args=(client,), name="egress-connection", daemon=True).start()

    def _accept_one(self, listener: socket.socket) -> socket.socket:
        """Raises OSError once the listener is shut down; waits out temporary shortages, of descriptors for example."""
        while True:
            try:
                return listener.accept()[0]
            except OSError as error:
                if self._is_closed or error.errno not in _PASSING:
                    raise
                time.sleep(_SHORTAGE_SECONDS)

    def _track(self, connection: socket.socket) -> bool:
        with self._lock:
            if not self._is_closed:
                self._open.add(connection)
            return not self._is_closed

    def _release(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)
        connection.close()

    def _serve(self, client: socket.socket) -> None:
        try:
            self._handle(client)
        except OSError:
            pass  # either side went away
        finally:
            self._release(client)
            self._slots.release()

    def _handle(self, client: socket.socket) -> None:
        try:
            head, rest = _read_head(client)
            account = self._accounts.find(head)
            if account is None:
                _answer(client, "407 Proxy Authentication Required", "This proxy belongs to another program.")
                return
            if not account.open(client):
                _answer(client, "429 Too Many Requests", "This program has too many connections through the proxy.")
                return
        except _BadRequest as error:
            _answer(client, "400 Bad Request", str(error))
            return
        try:
            self._serve_account(client, account, head, rest)
        finally:
            account.release(client)

    def _serve_account(self, client: socket.socket, account: Account, head: bytes, rest: bytes) -> None:
        try:
            host, port, forwarded = _parse(head)
        except _BadRequest as error:
            _answer(client, "400 Bad Request", str(error))
            return
        named = host if port in (80, 443) else f"{host}:{port}"
        try:
            server, early = self._reach(host, port)
        except Refused as refusal:
            account.refuse(named)
            _answer(client, "403 Forbidden", f"Blocked by the build network: {refusal}.")
            return
        except (Unresolvable, UpstreamFailure) as error:
            _answer(client, "502 Bad Gateway", f"{error}.")
            return
        if server is None:
            _answer(client, "502 Bad Gateway", f"{host}:{port} does not answer.")
            return
        if not self._track(server):
            server.close()
            return
        first = rest if forwarded is None else forwarded + rest
        account.count(named, sent=len(first), received=len(early))
        try:
            if forwarded is None:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n" + early)
            server.sendall(first)
            Tunnel(
                client,
                server,
                on_sent=lambda size: account.count(named, sent=size),
                on_received=lambda size: account.count(named, received=size),
            ).run()
        finally:
            self._release(server)

    def _reach(self, host: str, port: int) -> tuple[socket.socket | None, bytes]:
        """A connection to the host, and data that it already sent. Raises Refused, Unresolvable, UpstreamFailure."""
        try:
            addresses = self._policy.resolve(host, port, has_upstream=self._upstream is not None)
        except Unresolvable:
            if self._upstream is None or port not in (80, 443):
                raise
            return self._upstream.connect(host, port)
        if self._upstream is None or self._policy.is_listed(addresses):
            return _connect([str(address) for address in addresses], port), b""
        return self._upstream.connect(host, port)


def _listen_at(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Through the directory's descriptor: a Unix socket's path may have 107 bytes at most.
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        listening.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
    listening.listen(1)
    return listening


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    deadline = time.monotonic() + _HEADER_SECONDS
    received = b""
    while b"\r\n\r\n" not in received:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or len(received) > _HEADER_BYTES:
            raise _BadRequest("the request's header is too slow or too long")
        client.settimeout(remaining)
        try:
            data = client.recv(8192)
        except TimeoutError:
            continue
        if not data:
            raise _BadRequest("the request ended before its header")
        received += data
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def _parse(head: bytes) -> tuple[str, int, bytes | None]:
    """Host, port, and the header to send on (None for CONNECT)."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3:
        raise _BadRequest("the request line is malformed")
    method, target, _ = words
    if method == "CONNECT" and "[" not in target and target.count(":") > 1:
        # httpx names IPv6 addresses so.
        address, _, asked_port = target.rpartition(":")
        target = f"[{address}]:{asked_port}"
    try:
        url = urlsplit(f"//{target}" if method == "CONNECT" else target)
        port, host = url.port, url.hostname
    except ValueError as error:
        raise _BadRequest("the address is malformed") from error
    if not host:
        raise _BadRequest("this is a proxy: the request must name a host")
    if method == "CONNECT":
        if port is None:
            raise _BadRequest("CONNECT must name a port")
        return host, port, None
    if url.scheme != "http":
        raise _BadRequest("only http:// requests and CONNECT are served")
    path = (url.path or "/") + (f"?{url.query}" if url.query else "")
    hop_by_hop = ("proxy-connection:", "proxy-authorization:", "connection:", "keep-alive:", "host:")
    kept = [line for line in lines[1:] if not line.lower().startswith(hop_by_hop)]
    # One request a connection: the next one may be for another host.
    forwarded = [f"{method} {path} HTTP/1.1", f"Host: {url.netloc.rpartition('@')[2]}", *kept, "Connection: close"]
    return host, port or 80, ("\r\n".join(forwarded) + "\r\n\r\n").encode("latin-1")


def _connect(addresses: list[str], port: int) -> socket.socket | None:
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=_CONNECT_SECONDS)
        except OSError:
            continue
    return None


def _answer(client: socket.socket, status: str, reason: str) -> None:
    body = f"{reason}\n".encode("utf-8", "replace")
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    client.settimeout(_CONNECT_SECONDS)
    client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
