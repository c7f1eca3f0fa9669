"""The egress proxy that build pods share: where it is, and what a run shows there."""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from shared.errors import PlatformError
from workers.egress.accounts import Account, Traffic
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

    def finish(self, run: str) -> Traffic:
        """Ends the run's use of the proxy; returns its traffic. Raises PlatformError."""
        ...


class NoEgress:
    """No proxy is set: runs that need one can't start."""

    def address(self) -> Address:
        raise PlatformError(_MISSING)

    def addresses(self) -> tuple[Address, ...]:
        return ()

    def proxy_url(self, run: str, seconds: float) -> str:
        raise PlatformError(_MISSING)

    def finish(self, run: str) -> Traffic:
        return Traffic()


class _Ended(msgspec.Struct):
    """The answer of a gateway. One of the version before doesn't count."""

    blocked: list[str] = []
    reached: list[tuple[str, int, int]] = []


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

    def finish(self, run: str) -> Traffic:
        port = self._control.port or 80
        # The run may have used several gateways.
        total = Account()
        for address in resolve_all(self._control.hostname or ""):
            answer = self._end(f"http://{_bracketed(address)}:{port}/runs/{run}")
            for host in answer.blocked:
                total.refuse(host)
            for host, sent, received in answer.reached:
                total.count(host, sent=sent, received=received)
        return total.traffic()

    def _end(self, url: str) -> _Ended:
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
        try:
            return msgspec.json.decode(response.data, type=_Ended)
        except msgspec.MsgspecError as error:
            raise PlatformError(f"The egress gateway's answer can't be read: {error}.") from error


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


_MISSING = (
    "The command needs the network, and no egress proxy is set: run `cloudify egress` next to the builds and name it in"
    " CLOUDIFY_EGRESS_GATEWAY."
)
