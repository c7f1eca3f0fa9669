"""With what a worker introduces itself to the API server."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from kubernetes.config import incluster_config

from tests.support.certificates import write_certificate
from workers.executors.kubernetes.cluster import Cluster


class _ApiServer(ThreadingHTTPServer):
    """Has no Jobs, and remembers who asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.credentials: list[str | None] = []


class _Handler(BaseHTTPRequestHandler):
    server: _ApiServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        self.server.credentials.append(self.headers.get("Authorization"))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"items": []}')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Quiet."""


@pytest.fixture
def api_server() -> Iterator[_ApiServer]:
    with _ApiServer() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_pod_shows_the_token_of_its_account(
    api_server: _ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = tmp_path / "ca.pem"
    write_certificate(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    api_server.socket = context.wrap_socket(api_server.socket, server_side=True)
    (tmp_path / "token").write_text("secret-of-the-pod")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(certificate))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "localhost")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api_server.server_port))
    with contextlib.closing(Cluster.connect("builds", None)) as cluster:
        cluster.jobs("")
    assert [str(shown).lower() for shown in api_server.credentials] == ["bearer secret-of-the-pod"]


def test_a_kubeconfig_with_a_token_is_shown(api_server: _ApiServer, tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    server = {"server": f"http://127.0.0.1:{api_server.server_port}"}
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": server}],
                "users": [{"name": "u", "user": {"token": "secret-of-the-user"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )
    )
    with contextlib.closing(Cluster.connect("builds", path)) as cluster:
        cluster.jobs("")
    assert api_server.credentials == ["Bearer secret-of-the-user"]
