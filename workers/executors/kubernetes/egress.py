"""The egress proxy that build pods share: where it is, and the runs that are registered there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from shared.errors import PlatformError
from workers.executors.kubernetes.cluster import resolve

Address = tuple[str, int]


class EgressAccess(Protocol):
    """Safe from several threads."""

    def address(self) -> Address:
        """Where pods with a filtered network reach the proxy."""
        ...

    def addresses(self) -> tuple[Address, ...]:
        """Addresses that pods without network must not reach."""
        ...

    def register(self, run: str, seconds: float) -> str:
        """Lets the run use the proxy; returns the proxy's URL with the run's password. Raises PlatformError."""
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

    def register(self, run: str, seconds: float) -> str:
        raise PlatformError(_MISSING)

    def finish(self, run: str) -> tuple[str, ...]:
        return ()


class EgressGatewayAccess:
    """The gateway of the cluster (`workers/egress/gateway.py`). Implements EgressAccess."""

    def __init__(self, proxy_url: str, control_url: str, token: bytes) -> None:
        """`proxy_url`: as pods reach it, `control_url`: as workers do; `http://host:port` both."""
        self._proxy = urlsplit(proxy_url)
        self._control_url = control_url.rstrip("/")
        self._authorization = "Bearer " + token.decode()
        self._pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=3, read=10), maxsize=8)

    def address(self) -> Address:
        # Pods resolve no names.
        return resolve(self._proxy.hostname or ""), self._proxy.port or 80

    def addresses(self) -> tuple[Address, ...]:
        return (self.address(),)

    def register(self, run: str, seconds: float) -> str:
        password = secrets.token_hex(24)
        self._ask("PUT", run, {"password": password, "seconds": seconds})
        host, port = self.address()
        return f"http://{run}:{password}@{f'[{host}]' if ':' in host else host}:{port}"

    def finish(self, run: str) -> tuple[str, ...]:
        return tuple(str(host) for host in self._ask("DELETE", run, None).get("blocked", ()))

    def _ask(self, method: str, run: str, body: Mapping[str, object] | None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        try:
            # May be repeated: both methods say the same twice.
            retries = urllib3.Retry(5, backoff_factor=0.2, allowed_methods=None)
            url = f"{self._control_url}/runs/{run}"
            response = self._pool.request(method, url, body=data, headers=headers, retries=retries)
        except HTTPError as error:
            raise PlatformError(f"The egress gateway does not answer: {type(error).__name__}.") from error
        if response.status != HTTPStatus.OK:
            raise PlatformError(
                f"The egress gateway answers {response.status}: is CLOUDIFY_EGRESS_TOKEN the same there?"
            )
        return json.loads(response.data)


_MISSING = (
    "The command needs the network, and no egress proxy is set: run `cloudify egress` next to the builds and name it in"
    " CLOUDIFY_EGRESS_GATEWAY."
)
