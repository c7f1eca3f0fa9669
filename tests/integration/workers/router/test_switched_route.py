"""A route that is switched, within a request, to a deployment whose files aren't here."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from shared.stack.caddy import CaddyServer
from tests.support.ports import free_ports
from workers.router.site_directory import SiteDirectory

pytestmark = pytest.mark.integration


class _Agent(BaseHTTPRequestHandler):
    """Says that the files are here, which was right a moment ago."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""


@pytest.mark.parametrize("path", ["/", "/page", "/.well-known/cloudify/deployment"])
def test_the_answer_is_to_come_again_and_not_that_the_page_is_missing(tmp_path: Path, path: str):
    with ThreadingHTTPServer(("127.0.0.1", 0), _Agent) as agent:
        threading.Thread(target=agent.serve_forever, daemon=True).start()
        directory = SiteDirectory(tmp_path / "sites")
        directory.route("demo", "depl_1")
        [port] = free_ports(1)
        caddy = CaddyServer(
            tmp_path / "caddy",
            sites_directory=tmp_path / "sites",
            port=port,
            agent=f"127.0.0.1:{agent.server_port}",
        )
        caddy.start()
        try:
            caddy.wait(120)
            answer = httpx.get(caddy.url + path, headers={"Host": "demo.localhost"}, trust_env=False, timeout=60)
        finally:
            caddy.stop()
            agent.shutdown()
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Cache-Control"] == "no-store"
