"""The HTTP proxy of one clone, for installations that reach the internet only through a company's proxy."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Generator
from contextlib import contextmanager

from shared.network.address_policy import Refused
from shared.network.embedded_addresses import Address
from shared.projects.repository_url import RepositoryUrl
from shared.settings import NetworkSettings
from workers.egress.policy import EgressPolicy
from workers.egress.proxy import EgressProxy
from workers.egress.upstream import UpstreamFailure, UpstreamProxy

_USER = "clone"


class CloneProxy:
    """An HTTP proxy on a loopback port that tunnels to the hosts that `open` allowed, through the upstream proxy.

    git, ssh and the LFS client only know `url`, so the upstream's credentials never leave this process, and a server
    can't lead them to a host that wasn't checked. Safe between threads.
    """

    def __init__(self, upstream_url: str) -> None:
        """Raises ValueError for a URL without host or port, and OSError."""
        self._opened = _OpenedHosts()
        self._upstream = _WatchedUpstream(upstream_url)
        # Every program on this host can connect to the port.
        credentials = f"{_USER}:{secrets.token_urlsafe(24)}"
        listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.url = f"http://{credentials}@127.0.0.1:{listener.getsockname()[1]}"
        self._proxy = EgressProxy(listener, self._opened, self._upstream, credentials=credentials)

    @classmethod
    @contextmanager
    def opened(cls, settings: NetworkSettings) -> Generator[CloneProxy]:
        """Requires settings with an upstream proxy."""
        proxy = cls(settings.egress_proxy)
        try:
            yield proxy
        finally:
            proxy.close()

    def open(self, url: RepositoryUrl) -> UpstreamFailure | None:
        """Allows the host at its port and tries to connect. Returns the failure of the upstream proxy, or None."""
        self._opened.add(url.host, url.port)
        try:
            connection, _ = self._upstream.connect(url.host, url.port)
        except UpstreamFailure as failure:
            return failure
        connection.close()
        return None

    def find_failure(self, url: RepositoryUrl) -> UpstreamFailure | None:
        """Why the latest contact with the host failed at the upstream proxy, or None."""
        return self._upstream.failures.get(_key(url.host, url.port))

    def close(self) -> None:
        """Closes the listener and every connection. May be called twice."""
        self._proxy.close()


class _OpenedHosts(EgressPolicy):
    """Allows the hosts that `find_route` checked, by name and through the upstream proxy only."""

    def __init__(self) -> None:
        super().__init__([], [])
        self._hosts: set[tuple[str, int]] = set()

    def add(self, host: str, port: int) -> None:
        self._hosts.add(_key(host, port))

    def resolve(self, host: str, port: int, *, has_upstream: bool = False) -> list[Address]:
        if _key(host, port) not in self._hosts:
            raise Refused(f"{host}:{port} is no host of this clone")
        return []

    def is_listed(self, addresses: object) -> bool:
        return False


class _WatchedUpstream(UpstreamProxy):
    """Keeps the failure of the latest connection to each host, because git and ssh don't report the reason."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.failures: dict[tuple[str, int], UpstreamFailure] = {}

    def connect(self, host: str, port: int) -> tuple[socket.socket, bytes]:
        try:
            connected = super().connect(host, port)
        except UpstreamFailure as failure:
            self.failures[_key(host, port)] = failure
            raise
        self.failures.pop(_key(host, port), None)
        return connected


def _key(host: str, port: int) -> tuple[str, int]:
    return host.lower().rstrip("."), port
