"""The egress proxy that the build pods of a cluster share, and the listener where workers end their runs' access.

A run's credentials prove themselves (run_credentials). `DELETE /runs/NAME` ends them here and answers
`{"blocked": [host, …], "reached": [[host, bytes sent, bytes received], …]}`; it needs the installation's token as
`Authorization: Bearer …`. `GET /health` needs nothing. What was refused, reached and ended is kept in memory: after a
restart a gateway knows none of it, and continues to serve the runs.
"""

from __future__ import annotations

import hmac
import http.server
import re
import socket
import threading
from http import HTTPStatus
from typing import Any

import msgspec

from workers.egress.accounts import RunAccounts
from workers.egress.policy import EgressPolicy
from workers.egress.proxy import EgressProxy
from workers.egress.upstream import UpstreamProxy

_RUN_PATH = re.compile(r"/runs/([a-z0-9][a-z0-9-]{0,62})")
_CONNECTIONS = 4096
_TIMEOUT_SECONDS = 10.0


class EgressGateway:
    """Serves from construction until `close`. Safe from several threads."""

    def __init__(
        self,
        proxy: socket.socket,
        control: tuple[str, int],
        token: bytes,
        policy: EgressPolicy,
        upstream: UpstreamProxy | None = None,
    ) -> None:
        """`proxy` is a listening socket; `control` the address of the workers' listener. Raises OSError."""
        accounts = RunAccounts(token)
        self._server = _ControlServer(control, accounts, token)
        self._proxy = EgressProxy(proxy, policy, upstream, accounts=accounts, connections=_CONNECTIONS)
        self._thread = threading.Thread(target=self._server.serve_forever, name="egress-control", daemon=True)
        self._thread.start()

    @property
    def control_port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._proxy.close()


class _ControlServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], accounts: RunAccounts, token: bytes) -> None:
        self.accounts = accounts
        self.expected = b"Bearer " + token
        super().__init__(address, _ControlHandler)

    def service_actions(self) -> None:
        self.accounts.forget_expired()


class _ControlHandler(http.server.BaseHTTPRequestHandler):
    server: _ControlServer  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = _TIMEOUT_SECONDS

    def do_GET(self) -> None:
        self._answer(HTTPStatus.OK if self.path == "/health" else HTTPStatus.NOT_FOUND)

    def do_DELETE(self) -> None:
        run = self._admitted_run()
        if run is not None:
            traffic = self.server.accounts.finish(run)
            reached = [(each.host, each.sent_bytes, each.received_bytes) for each in traffic.reached_hosts]
            self._answer(HTTPStatus.OK, {"blocked": traffic.blocked_hosts, "reached": reached})

    def _admitted_run(self) -> str | None:
        given = self.headers.get("Authorization", "").encode()
        found = _RUN_PATH.fullmatch(self.path)
        if not hmac.compare_digest(given, self.server.expected):
            self._answer(HTTPStatus.UNAUTHORIZED)
        elif found is None:
            self._answer(HTTPStatus.NOT_FOUND)
        else:
            return found[1]
        return None

    def _answer(self, status: HTTPStatus, body: dict[str, Any] | None = None) -> None:
        data = msgspec.json.encode(body or {})
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Requests are not logged."""
