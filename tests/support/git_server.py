"""A git repository behind HTTP: git's own `http-backend`, with the answers of hosts that refuse, move or break."""

from __future__ import annotations

import base64
import contextlib
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit


class GitServer(ThreadingHTTPServer):
    """`status`: answered instead of anything else. `location`: where everything but `.git` paths redirects."""

    daemon_threads = True

    def __init__(self, root: Path, host: str = "127.0.0.1") -> None:
        super().__init__((host, 0), _Handler)
        self.host = host
        self.root = root
        self.credentials: str | None = None
        self.status: int | None = None
        self.location: str | None = None
        # Speaks the first version of the protocol only, in which commits can't be asked for by their SHA.
        self.is_old = False
        self.requests: list[str] = []
        # Asked before git is, with method, path, headers and body: (status, headers, content), or None.
        self.respond: Callable[[str, str, Message, bytes], tuple[int, dict[str, str], bytes] | None] | None = None
        # When set, answers wait for it: a host that accepts and then says nothing.
        self.hold: threading.Event | None = None

    def url(self, name: str, credentials: str = "") -> str:
        return f"http://{credentials and credentials + '@'}{self.host}:{self.server_port}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: GitServer

    def _answer(self) -> None:
        server = self.server
        server.requests.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if server.hold is not None:
            server.hold.wait(600)
        expected = server.credentials and "Basic " + base64.b64encode(server.credentials.encode()).decode()
        if server.status is not None:
            return self._short(server.status)
        if server.location is not None and ".git/" not in self.path:
            return self._short(302, {"Location": server.location + self.path})
        if expected and self.headers.get("Authorization") != expected:
            return self._short(401, {"WWW-Authenticate": 'Basic realm="git"'})
        answer = server.respond and server.respond(self.command, self.path, self.headers, body)
        if answer:
            return self._short(*answer)
        parts = urlsplit(self.path)
        backend = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            # It fails after it has said so to the client, when a commit that is asked for isn't there.
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "GIT_PROTOCOL": "" if server.is_old else self.headers.get("Git-Protocol", ""),
                "PATH_INFO": parts.path,
                "QUERY_STRING": parts.query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "REMOTE_ADDR": "127.0.0.1",
            },
        ).stdout
        if not backend:
            return self._short(500)
        head, _, content = backend.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    do_GET = do_POST = _answer  # noqa: N815 - http.server's name

    def _short(self, status: int, headers: dict[str, str] | None = None, content: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def handle(self) -> None:
        # A client that breaks off, in the middle of a handshake too, is what some tests are about.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        return


@contextmanager
def serving(root: Path, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Iterator[GitServer]:
    with GitServer(root, host) as server:
        if tls is not None:
            # The handshake is left to each connection's thread: one that fails there stops nobody else.
            server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            if server.hold is not None:
                server.hold.set()
            server.shutdown()
            thread.join()
