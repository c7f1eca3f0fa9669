"""The egress proxy that build pods share: where it is, and what a run shows there."""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from shared.errors import PlatformError
from workers.egress.run_credentials import credentials_of
from workers.executors.kubernetes.cluster import resolve, resolve_all

Address = tuple[str, int]


class EgressAccess(Protocol):
    """Safe from several threads."""

    def address(self) -> Address:
        """Where pods with a filtered network reach the proxy."""
        ...

    def addresses(self) -> tuple[Address, ...]:
        """Addresses that pods without network must not reach."""
        ...

    def proxy_url(self, run: str, seconds: float) -> str:
        """The proxy's URL with credentials of the run, which last so long. Raises PlatformError."""
        ...

    def finish(self, run: str) -> tuple[str, ...]:
        """Ends the run's use of the proxy; returns the hosts that were refused to it. Raises PlatformError."""
        ...


class NoEgress:
    """No proxy is set: runs that need one can't start."""

    def address(self) -> Address:
        raise PlatformError(_MISSING)

    def addresses(self) -> tuple[Address, ...]:
        return ()

    def proxy_url(self, run: str, seconds: float) -> str:
        raise PlatformError(_MISSING)

    def finish(self, run: str) -> tuple[str, ...]:
        return ()


class EgressGatewayAccess:
    """The gateways of the cluster (`workers/egress/gateway.py`). Implements EgressAccess."""

    def __init__(self, proxy_url: str, control_url: str, token: bytes) -> None:
        """`proxy_url`: as pods reach them, `control_url`: as workers do; `http://host:port` both.

        The control URL's name has the address of each gateway.
        """
        self._proxy = urlsplit(proxy_url)
        self._control = urlsplit(control_url)
        self._token = token
        self._authorization = "Bearer " + token.decode()
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=3, read=10), maxsize=8)

    def address(self) -> Address:
        # Pods resolve no names.
        return resolve(self._proxy.hostname or ""), self._proxy.port or 80

    def addresses(self) -> tuple[Address, ...]:
        return (self.address(),)

    def proxy_url(self, run: str, seconds: float) -> str:
        credentials = credentials_of(self._token, run, int(time.time() + seconds))
        host, port = self.address()
        return f"http://{credentials}@{_bracketed(host)}:{port}"

    def finish(self, run: str) -> tuple[str, ...]:
        port = self._control.port or 80
        blocked: dict[str, None] = {}
        for host in resolve_all(self._control.hostname or ""):
            blocked |= dict.fromkeys(self._end(f"http://{_bracketed(host)}:{port}/runs/{run}"))
        return tuple(blocked)

    def _end(self, url: str) -> list[str]:
        headers = {"Authorization": self._authorization}
        try:
            # May be repeated: it says the same twice.
            retries = urllib3.Retry(3, backoff_factor=0.2, allowed_methods=None)
            response = self._pool.request("DELETE", url, headers=headers, retries=retries)
        except HTTPError as error:
            raise PlatformError(f"The egress gateway does not answer: {type(error).__name__}.") from error
        if response.status != HTTPStatus.OK:
            raise PlatformError(
                f"The egress gateway answers {response.status}: is CLOUDIFY_EGRESS_TOKEN the same there?"
            )
        return [str(host) for host in json.loads(response.data).get("blocked", ())]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


_MISSING = (
    "The command needs the network, and no egress proxy is set: run `cloudify egress` next to the builds and name it in"
    " CLOUDIFY_EGRESS_GATEWAY."
)
