"""Where a clone may lead: addresses that are accepted, and checked before anything is sent to them."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
# Whoever owns the name chooses how many it has, and each may be silent.
_MAXIMUM_ADDRESSES = 4
# After a proxy that took longer for its refusal, it isn't asked again.
_RETRY_SECONDS = 10.0
_PROXIED_PORTS = (22, 80, 443)


@dataclass(frozen=True, slots=True)
class Route:
    """How a checked host is contacted: at `address`, or by its name through the HTTP proxy at the URL `proxy`.

    Neither for file://.
    """

    address: str | None = None
    proxy: str | None = field(default=None, repr=False)


def parse_for_clone(url: str, policy: RepositoryPolicy, *, name: str = FIELD, needs_path: bool = True) -> RepositoryUrl:
    """As `parse_repository_url`; what the API would refuse fails the deployment here, as the user's failure."""
    try:
        parsed = parse_repository_url(url, name=name, needs_path=needs_path)
        policy.check(parsed)
    except CloudifyError as error:
        raise StageFailure(FailureCode.URL_FORBIDDEN, error.message) from error
    return parsed


@dataclass(frozen=True, slots=True)
class Network:
    """Where one clone may lead, and how it gets there. Not shared between threads.

    `policy` judges every address; `proxy`: where the outside is reached through one, that. `cancelled` ends waits.
    """

    policy: RepositoryPolicy
    cancelled: threading.Event
    proxy: CloneProxy | None = None

    def find_route(self, url: RepositoryUrl) -> Route:
        """A way to the host that is allowed and leads there.

        Raises StageFailure URL_FORBIDDEN or REPOSITORY_UNREACHABLE, PlatformError for the proxy's own troubles,
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
        """Why the latest contact with the host didn't get through the company's proxy; None if it did."""
        return None if self.proxy is None else self.proxy.find_failure(url)

    def reachable_address(self, url: RepositoryUrl) -> str:
        """An address of the host that is allowed and accepts connections. Tries for a few seconds."""
        reason = ""
        for attempt in range(_CONNECT_TRIES):
            self._pause_before(attempt)
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
        """Lets the clone reach the host through the proxy. Raises what a contact that it refuses stands for."""
        started = time.monotonic()
        for attempt in range(_CONNECT_TRIES):
            self._pause_before(attempt)
            failure = proxy.open(url)
            if failure is None:
                return
            is_last = attempt == _CONNECT_TRIES - 1 or time.monotonic() - started > _RETRY_SECONDS
            # A proxy that is away is left to the stage's next attempt.
            if is_last or not failure.may_pass or isinstance(failure, UpstreamAway):
                raise proxy_failure(url, failure, is_last_attempt=True)

    def _pause_before(self, attempt: int) -> None:
        if attempt and self.cancelled.wait(0.5 * attempt):
            raise Cancelled


def _is_direct(url: RepositoryUrl, policy: RepositoryPolicy) -> bool:
    """Whether the host is reached without the proxy: it is in the allowed networks. Raises StageFailure."""
    try:
        return all(policy.addresses.is_listed(address) for address in policy.admit(url, has_proxy=True))
    except CloudifyError as error:
        raise StageFailure(FailureCode.URL_FORBIDDEN, error.message) from error
    except Unresolvable:
        _check_unresolved(url)
        return False


def _check_unresolved(url: RepositoryUrl) -> None:
    """Where a name leads that only the proxy resolves is the proxy's to judge, but nothing goes there unencrypted."""
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
    """Empty where the name doesn't resolve."""
    try:
        return policy.admit(url)
    except Unresolvable:
        return ()
    except CloudifyError as error:
        raise StageFailure(FailureCode.URL_FORBIDDEN, error.message) from error
