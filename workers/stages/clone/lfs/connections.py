"""Connections to the hosts to which a Git LFS server refers."""

from __future__ import annotations

import ssl
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING

from shared.errors import FailureCode, StageFailure
from shared.projects.repository_url import RepositoryUrl
from workers.stages.clone.addresses import Network
from workers.stages.clone.deadline import Deadline

if TYPE_CHECKING:
    import httpx

# The server chooses the hosts, and each costs memory and time for TLS.
_KEPT = 4
_MAXIMUM_ORIGINS = 100


class LfsConnections:
    """One client for each origin, so that a connection is used only for the name that its certificate was checked for.

    Not shared between threads. `certificates`: a PEM file in place of the host's.
    """

    def __init__(self, deadline: Deadline, network: Network, certificates: str | None) -> None:
        self._deadline = deadline
        self._network = network
        self._certificates = certificates
        # In order of use, the latest last.
        self._kept: OrderedDict[str, tuple[str, httpx.Client]] = OrderedDict()
        self._origins: set[str] = set()

    def find(self, url: RepositoryUrl) -> tuple[str, httpx.Client]:
        """Returns the checked address of the host (through the proxy, its name) and the client that connects to it.

        Raises StageFailure, also if the server has named too many hosts, PlatformError and Cancelled.
        """
        found = self._kept.get(url.origin) or self._connect(url)
        self._kept[url.origin] = found
        self._kept.move_to_end(url.origin)
        return found

    def close(self) -> None:
        for _, client in self._kept.values():
            client.close()
        self._kept.clear()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._certificates)

    def _connect(self, url: RepositoryUrl) -> tuple[str, httpx.Client]:
        import httpx

        from workers.stages.clone.lfs.bounded_http import BoundedTransport

        self._origins.add(url.origin)
        if len(self._origins) > _MAXIMUM_ORIGINS:
            raise StageFailure(
                FailureCode.REPOSITORY_LFS_MISSING,
                f"The Git LFS server names addresses on more than {_MAXIMUM_ORIGINS} hosts. Use one that keeps its "
                "files on fewer.",
            )
        if len(self._kept) >= _KEPT:
            self._kept.popitem(last=False)[1][1].close()
        route = self._network.find_route(url)
        client = httpx.Client(
            transport=BoundedTransport(self._deadline.check, self._tls, route.proxy),
            timeout=httpx.Timeout(20.0, connect=10.0),
            follow_redirects=False,
            trust_env=False,
        )
        return route.address or url.host, client
