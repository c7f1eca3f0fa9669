"""Where a clone may lead: addresses that are accepted, and checked before anything is sent to them."""

from __future__ import annotations

import socket
import threading

from shared.errors import Cancelled, CloudifyError, FailureCode, StageFailure
from shared.repository_url import RepositoryUrl, check_addresses, parse_repository_url
from workers.git_failures import unreachable

_CONNECT_SECONDS = 5.0
_CONNECT_TRIES = 3


def parse_for_clone(url: str, *, allow_local: bool) -> RepositoryUrl:
    """The address of a repository; what the API would refuse fails the deployment here, as the user's failure."""
    try:
        return parse_repository_url(url, allow_local=allow_local)
    except CloudifyError as error:
        raise StageFailure(FailureCode.URL_FORBIDDEN, error.message) from error


def reachable_address(url: RepositoryUrl, cancelled: threading.Event, *, allow_local: bool) -> str:
    """An address of the host that is allowed and accepts connections. Tries for a few seconds."""
    reason = ""
    for attempt in range(_CONNECT_TRIES):
        if attempt and cancelled.wait(0.5 * attempt):
            raise Cancelled
        try:
            addresses = check_addresses(url, allow_local=allow_local)
        except CloudifyError as error:
            raise StageFailure(FailureCode.URL_FORBIDDEN, error.message) from error
        reason = f"the name {url.host} does not resolve"
        for address in addresses:
            try:
                socket.create_connection((address, url.port), timeout=_CONNECT_SECONDS).close()
            except OSError as error:
                reason = f"{url.host} port {url.port}: {error.strerror or 'no answer'}"
            else:
                return address
    raise unreachable(url, reason)
