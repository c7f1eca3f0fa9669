"""Checks addresses before a clone sends anything to them, and finds the route to each."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.backoff import Backoff
from shared.errors import Cancelled, CloudifyError, FailureCode, StageFailure
from shared.network.address_policy import Unresolvable
from shared.network.embedded_addresses import Address
from shared.projects.repository_url import FIELD, RepositoryPolicy, RepositoryUrl, parse_repository_url
from workers.egress.upstream import UpstreamAway, UpstreamFailure
from workers.stages.clone.git.failures import proxy_failure, unreachable

if TYPE_CHECKING:
    from workers.stages.clone.proxy import CloneProxy

_CONNECT_SECONDS = 5.0
_CONNECT_TRIES = 3
_RETRY = Backoff(0.5, 1.0, jitter=0.0)
# The owner of a name decides how many addresses it has, and each may let a connection time out.
_MAXIMUM_ADDRESSES = 4
# A proxy that takes longer than this to refuse isn't asked again.
_RETRY_SECONDS = 10.0
_PROXIED_PORTS = (22, 80, 443)


@dataclass(frozen=True, slots=True)
class Route:
    """How a checked host is contacted: at `address`, or by its name through the HTTP proxy at the URL `proxy`.

    Both are None for file://.
    """

    address: str | None = None
    proxy: str | None = field(default=None, repr=False)


def parse_for_clone(url: str, policy: RepositoryPolicy, *, name: str = FIELD, needs_path: bool = True) -> RepositoryUrl:
    """As `parse_repository_url`, but raises StageFailure URL_FORBIDDEN for an address that the API would refuse."""
    try:
        parsed = parse_repository_url(url, name=name, needs_path=needs_path)
        policy.check(parsed)
    except CloudifyError as error:
        raise StageFailure(FailureCode.URL_FORBIDDEN, error.message) from error
    return parsed


@dataclass(frozen=True, slots=True)
class Network:
    """The network of one clone: which addresses it may reach, and how. Not shared between threads.

    `policy` decides about every address. `proxy` is None if every host is reached directly. `cancelled` ends waits.
    """

    policy: RepositoryPolicy
    cancelled: threading.Event
    proxy: CloneProxy | None = None

    def find_route(self, url: RepositoryUrl) -> Route:
        """Finds a permitted and working route to the host.

        Raises StageFailure URL_FORBIDDEN or REPOSITORY_UNREACHABLE, PlatformError if the proxy itself fails, and
        Cancelled.
        """
        if url.scheme == "file":
            parse_for_clone(url.public, self.policy)
            return Route()
        if self.proxy is None or _is_direct(url, self.policy):
            return Route(address=self.reachable_address(url))
        self._open(url, self.proxy)
        return Route(proxy=self.proxy.url)

    def find_proxy_failure(self, url: RepositoryUrl) -> UpstreamFailure | None:
        """Why the latest contact with the host failed at the company's proxy, or None."""
        return None if self.proxy is None else self.proxy.find_failure(url)

    def reachable_address(self, url: RepositoryUrl) -> str:
        """Finds a permitted address of the host that accepts connections. Tries for a few seconds."""
        reason = ""
        for failures in range(_CONNECT_TRIES):
            self._pause_after(failures)
            reason = f"the name {url.host} does not resolve"
            for address in _admitted(url, self.policy)[:_MAXIMUM_ADDRESSES]:
                if self.cancelled.is_set():
                    raise Cancelled
                try:
                    socket.create_connection((str(address), url.port), timeout=_CONNECT_SECONDS).close()
                except OSError as error:
                    reason = f"{url.host} port {url.port}: {error.strerror or 'no answer'}"
                else:
                    return str(address)
        raise unreachable(url, reason)

    def _open(self, url: RepositoryUrl, proxy: CloneProxy) -> None:
        """Lets the clone reach the host through the proxy. Raises StageFailure, PlatformError or Cancelled."""
        started = time.monotonic()
        for failures in range(_CONNECT_TRIES):
            self._pause_after(failures)
            failure = proxy.open(url)
            if failure is None:
                return
            is_last = failures == _CONNECT_TRIES - 1 or time.monotonic() - started > _RETRY_SECONDS
            # The stage's next attempt tries again if the proxy doesn't answer.
            if is_last or not failure.is_transient or isinstance(failure, UpstreamAway):
                raise proxy_failure(url, failure, is_last_attempt=True)

    def _pause_after(self, failures: int) -> None:
        if failures and self.cancelled.wait(_RETRY.delay_seconds(failures)):
            raise Cancelled


def _is_direct(url: RepositoryUrl, policy: RepositoryPolicy) -> bool:
    """Whether the host is in the allowed networks, which are reached without the proxy. Raises StageFailure."""
    try:
        return all(policy.addresses.is_listed(address) for address in policy.admit(url, has_proxy=True))
    except CloudifyError as error:
        raise StageFailure(FailureCode.URL_FORBIDDEN, error.message) from error
    except Unresolvable:
        _check_unresolved(url)
        return False


def _check_unresolved(url: RepositoryUrl) -> None:
    """Names that only the proxy resolves are up to the proxy, but not over http:// or at unusual ports."""
    if url.scheme == "http":
        raise StageFailure(
            FailureCode.URL_FORBIDDEN,
            f"{url.host} does not resolve, so it is in none of the networks that http:// is allowed for. Use https://.",
        )
    if url.port not in _PROXIED_PORTS:
        raise unreachable(
            url,
            f"the name {url.host} does not resolve, and names that only the proxy of this installation "
            "(CLOUDIFY_EGRESS_PROXY) resolves are reached at the ports 22, 80 and 443 alone",
        )


def _admitted(url: RepositoryUrl, policy: RepositoryPolicy) -> tuple[Address, ...]:
    """The permitted addresses; empty if the name doesn't resolve."""
    try:
        return policy.admit(url)
    except Unresolvable:
        return ()
    except CloudifyError as error:
        raise StageFailure(FailureCode.URL_FORBIDDEN, error.message) from error
