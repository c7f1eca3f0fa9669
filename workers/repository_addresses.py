"""Where a clone may lead: addresses that are accepted, and checked before anything is sent to them."""

from __future__ import annotations

import re
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.errors import Cancelled, CloudifyError, FailureCode, StageFailure
from shared.repository_url import RepositoryUrl, check_addresses, parse_repository_url
from workers.executors.upstream_proxy import UpstreamAway
from workers.git_failures import proxy_failure, unreachable

if TYPE_CHECKING:
    from workers.clone_proxy import CloneProxy

_CONNECT_SECONDS = 5.0
_CONNECT_TRIES = 3
# After a proxy that took longer for its refusal, it isn't asked again.
_PATIENCE_SECONDS = 10.0
_PROXIED_PORTS = (22, 80, 443)
# What some programs read as an IPv4 address (https://url.spec.whatwg.org/#ends-in-a-number-checker); no name ends so.
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")


@dataclass(frozen=True, slots=True)
class Route:
    """How a checked host is contacted: at `address`, or by its name through the HTTP proxy at the URL `proxy`.

    Neither for file://.
    """

    address: str | None = None
    proxy: str | None = field(default=None, repr=False)


def parse_for_clone(url: str, *, allow_local: bool) -> RepositoryUrl:
    """The address of a repository; what the API would refuse fails the deployment here, as the user's failure."""
    try:
        return parse_repository_url(url, allow_local=allow_local)
    except CloudifyError as error:
        raise StageFailure(FailureCode.URL_FORBIDDEN, error.message) from error


def find_route(url: RepositoryUrl, cancelled: threading.Event, proxy: CloneProxy | None, *, allow_local: bool) -> Route:
    """A way to the host that is allowed and leads there. `proxy`: for what isn't reached directly, where there is one.

    Raises StageFailure URL_FORBIDDEN or REPOSITORY_UNREACHABLE, PlatformError for the proxy's own troubles, Cancelled.
    """
    if url.scheme == "file":
        return Route()
    if proxy is None:
        return Route(address=reachable_address(url, cancelled, allow_local=allow_local))
    addresses = _checked_addresses(url, allow_local=allow_local)
    if proxy.is_direct(addresses):
        return Route(address=reachable_address(url, cancelled, allow_local=allow_local))
    if not addresses:
        _check_unresolved(url)
    started = time.monotonic()
    for attempt in range(_CONNECT_TRIES):
        if attempt and cancelled.wait(0.5 * attempt):
            raise Cancelled
        failure = proxy.open(url)
        if failure is None:
            return Route(proxy=proxy.url)
        is_last = attempt == _CONNECT_TRIES - 1 or time.monotonic() - started > _PATIENCE_SECONDS
        # A proxy that is away is left to the stage's next attempt.
        if is_last or not failure.may_pass or isinstance(failure, UpstreamAway):
            raise proxy_failure(url, failure, is_last_attempt=True)
    raise AssertionError("the last try returns or raises")


def _check_unresolved(url: RepositoryUrl) -> None:
    """Where a name leads that only the proxy resolves is the proxy's to judge, but not what may mean its own host."""
    last = url.host.rstrip(".").rpartition(".")[2]
    if ":" in url.host or _NUMBER.fullmatch(last) or last in ("", "localhost"):
        raise StageFailure(FailureCode.URL_FORBIDDEN, f"{url.host} is not the name of a public host.")
    if url.port not in _PROXIED_PORTS:
        raise unreachable(
            url,
            f"the name {url.host} does not resolve, and names that only the proxy of this installation "
            "(CLOUDIFY_EGRESS_PROXY) resolves are reached at the ports 22, 80 and 443 alone",
        )


def _checked_addresses(url: RepositoryUrl, *, allow_local: bool) -> tuple[str, ...]:
    try:
        return check_addresses(url, allow_local=allow_local)
    except CloudifyError as error:
        raise StageFailure(FailureCode.URL_FORBIDDEN, error.message) from error


def reachable_address(url: RepositoryUrl, cancelled: threading.Event, *, allow_local: bool) -> str:
    """An address of the host that is allowed and accepts connections. Tries for a few seconds."""
    reason = ""
    for attempt in range(_CONNECT_TRIES):
        if attempt and cancelled.wait(0.5 * attempt):
            raise Cancelled
        addresses = _checked_addresses(url, allow_local=allow_local)
        reason = f"the name {url.host} does not resolve"
        for address in addresses:
            try:
                socket.create_connection((address, url.port), timeout=_CONNECT_SECONDS).close()
            except OSError as error:
                reason = f"{url.host} port {url.port}: {error.strerror or 'no answer'}"
            else:
                return address
    raise unreachable(url, reason)
