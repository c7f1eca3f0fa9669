"""The one address a browser sees: Caddy with the page, the API below /api and who listens to the page below /report."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from shared.stack.errors import StackError
from shared.stack.processes import end, spawn
from shared.stack.server import program
from tests.support.ports import free_ports
from tests.support.running_platform import wait_for

_PAGE = Path(__file__).parent / "browser"
_CADDYFILE = """
{
	admin off
	auto_https off
	persist_config off
}
http://:{$FRONT_PORT} {
	bind 127.0.0.1
	handle /api/* {
		reverse_proxy {$FRONT_API}
	}
	handle /report/* {
		reverse_proxy {$FRONT_REPORTS}
	}
	handle {
		root * page
		file_server
	}
}
"""


class Reports(ThreadingHTTPServer):
    """Tells the page its `settings` and writes what it reports under a name to that file, one JSON object a line."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, Path], settings: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _ReportHandler)
        self.settings = settings
        self._files = files
        self._blocks = dict.fromkeys(files, 0)
        self._lock = threading.Lock()

    def take(self, name: str, block: int, records: list[dict[str, Any]]) -> None:
        """A block that came before is not written again."""
        with self._lock:
            if block < self._blocks[name]:
                return
            assert block == self._blocks[name], f"block {block} of {name} follows {self._blocks[name] - 1}"
            with self._files[name].open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in records)
            self._blocks[name] += 1


class _ReportHandler(BaseHTTPRequestHandler):
    server: Reports

    def do_GET(self) -> None:
        assert self.path == "/report/settings"
        self._answer(json.dumps(self.server.settings).encode())

    def do_POST(self) -> None:
        records = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        _, _, name, block = self.path.split("/")
        self.server.take(name, int(block), records)
        self._answer(b"{}")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Quiet."""


@contextmanager
def reporting(files: Mapping[str, Path], settings: dict[str, str]) -> Generator[Reports]:
    with Reports(files, settings) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def front(directory: Path, *, script: str, api_url: str, reports: Reports) -> Generator[str]:
    """The page's URL. `script` is what the page loads as follow_log.js."""
    page = directory / "page"
    shutil.copytree(_PAGE, page)
    (page / "follow_log.js").write_text(script, encoding="utf-8")
    (directory / "Caddyfile").write_text(_CADDYFILE)
    [port] = free_ports(1)
    process = spawn(
        [program("caddy"), "run", "--adapter", "caddyfile", "--config", directory / "Caddyfile"],
        log_path=directory / "caddy.log",
        directory=directory,
        environment={
            "FRONT_PORT": str(port),
            "FRONT_API": urlsplit(api_url).netloc,
            "FRONT_REPORTS": f"127.0.0.1:{reports.server_port}",
            "XDG_DATA_HOME": str(directory),
            "XDG_CONFIG_HOME": str(directory),
        },
    )

    def is_ready() -> bool:
        if process.poll() is not None:
            raise StackError(f"Caddy ended: {(directory / 'caddy.log').read_text()[-2000:]}")
        try:
            return httpx.get(f"http://127.0.0.1:{port}/index.html", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for(is_ready, seconds=30, what="Caddy answers")
        # A browser takes localhost for a secure place, where cookies that need one work without TLS.
        yield f"http://localhost:{port}/"
    finally:
        end(process)
