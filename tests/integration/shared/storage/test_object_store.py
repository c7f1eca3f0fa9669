"""S3ArtifactStore on a real S3 server, and on ports where none answers."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
import socketserver
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from shared.errors import PlatformError
from shared.settings import ObjectStoreSettings
from shared.storage.base import ObjectNotFound
from shared.storage.object_store import S3ArtifactStore
from tests.support.certificates import write_certificate
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration


@pytest.fixture
def store(object_store_settings: ObjectStoreSettings) -> S3ArtifactStore:
    return S3ArtifactStore(object_store_settings)


def test_objects_come_back_as_they_were(store: S3ArtifactStore, tmp_path: Path) -> None:
    # One part and several.
    for name, size in (("empty", 0), ("small", 1000), ("large", 20_000_000)):
        source, target = tmp_path / name, tmp_path / f"{name}-back"
        source.write_bytes(os.urandom(size))
        store.put_file(f"files/{name}", source)
        store.get_file(f"files/{name}", target)
        assert target.read_bytes() == source.read_bytes() == store.get_bytes(f"files/{name}")
    store.put_bytes("other/one", b"1")
    assert sorted(store.list("files/")) == ["files/empty", "files/large", "files/small"]
    assert list(store.list("absent/")) == []


def test_what_is_absent(store: S3ArtifactStore, tmp_path: Path) -> None:
    assert not store.exists("absent")
    store.delete("absent")
    with pytest.raises(ObjectNotFound):
        store.get_bytes("absent")
    with pytest.raises(ObjectNotFound):
        store.get_file("absent", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []
    store.put_bytes("present", b"1")
    store.put_bytes("present", b"2")
    assert store.exists("present")
    store.delete("present")
    assert not store.exists("present")


def test_the_bucket_is_made_where_there_is_none(object_store_settings: ObjectStoreSettings) -> None:
    settings = dataclasses.replace(object_store_settings, bucket=object_store_settings.bucket + "-new")
    stores = [S3ArtifactStore(settings) for _ in range(4)]
    threads = [threading.Thread(target=store.ping) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stores[0].put_bytes("a", b"1")
    assert stores[1].get_bytes("a") == b"1"


def test_wrong_keys_are_the_platforms_failure_at_once(object_store_settings: ObjectStoreSettings) -> None:
    store = S3ArtifactStore(dataclasses.replace(object_store_settings, secret_key="wrong"))
    with pytest.raises(PlatformError, match="could not"):
        store.ping()


def _elsewhere(settings: ObjectStoreSettings, port: int) -> ObjectStoreSettings:
    return dataclasses.replace(settings, endpoint=f"http://127.0.0.1:{port}")


def test_a_store_that_is_down_or_silent(object_store_settings: ObjectStoreSettings, tmp_path: Path) -> None:
    [port] = free_ports(1)
    down = S3ArtifactStore(_elsewhere(object_store_settings, port), retry_seconds=0.3)
    with pytest.raises(PlatformError, match="does not answer"):
        down.get_file("a", tmp_path / "a")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = _elsewhere(object_store_settings, silent.getsockname()[1])
        with pytest.raises(PlatformError, match="does not answer"):
            S3ArtifactStore(settings, retry_seconds=0.3, timeout_seconds=0.2).exists("a")
    assert list(tmp_path.iterdir()) == []


def test_an_answer_that_breaks_off_is_no_file(object_store_settings: ObjectStoreSettings, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = _elsewhere(object_store_settings, server.getsockname()[1])

        def answer() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    request = connection.recv(65536)
                    length = b"0" if request.startswith(b"HEAD") else b"100"
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n")
                    if length != b"0":
                        connection.sendall(b"short")

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with pytest.raises(PlatformError, match="does not answer"):
                S3ArtifactStore(settings, retry_seconds=0.3, timeout_seconds=2).get_file("a", tmp_path / "a")
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert list(tmp_path.iterdir()) == []


def test_a_short_outage_is_waited_out(object_store_settings: ObjectStoreSettings) -> None:
    """The first connections are cut; a relay to the real server takes the later ones."""
    real = int(object_store_settings.endpoint.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", 0)) as server:

        def relay(source: socket.socket, target: socket.socket) -> None:
            try:
                while data := source.recv(65536):
                    target.sendall(data)
            except OSError:
                return
            finally:
                for end in (source, target):
                    try:
                        end.shutdown(socket.SHUT_RDWR)
                    except OSError:
                        continue

        opened: list[socket.socket] = []

        def accept() -> None:
            for number in range(1000):
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                if number < 3:
                    connection.close()
                    continue
                onward = socket.create_connection(("127.0.0.1", real))
                opened.extend((connection, onward))
                for pair in ((connection, onward), (onward, connection)):
                    threading.Thread(target=relay, args=pair, daemon=True).start()

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            # The Host header is signed, so the relay's address is part of the request; the server takes it as it is.
            store = S3ArtifactStore(_elsewhere(object_store_settings, server.getsockname()[1]))
            store.put_bytes("a", b"1")
            assert store.get_bytes("a") == b"1"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for end in opened:
                end.close()


def test_a_store_behind_an_authority_of_the_installation(
    object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> None:
    write_certificate(tmp_path / "server.pem")
    with tls_in_front_of(object_store_settings.endpoint, tmp_path / "server.pem") as port:
        settings = dataclasses.replace(object_store_settings, endpoint=f"https://localhost:{port}")
        store = S3ArtifactStore(settings, ca_bundle=tmp_path / "server.pem")
        store.put_bytes("kept", b"1")
        assert store.get_bytes("kept") == b"1"
        with pytest.raises(PlatformError, match="does not answer"):
            S3ArtifactStore(settings, retry_seconds=0.0).get_bytes("kept")


@contextmanager
def tls_in_front_of(endpoint: str, certificate: Path) -> Generator[int]:
    """A relay that speaks TLS. Yields its port."""
    upstream = urlsplit(endpoint)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    class Relay(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((upstream.hostname or "", upstream.port or 80)) as server,
                context.wrap_socket(self.request, server_side=True) as client,
            ):
                back = threading.Thread(target=_pass_on, args=(server, client), daemon=True)
                back.start()
                _pass_on(client, server)
                back.join()

    class Relays(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Relays(("127.0.0.1", 0), Relay) as relays:
        thread = threading.Thread(target=relays.serve_forever)
        thread.start()
        try:
            yield relays.server_address[1]
        finally:
            relays.shutdown()
            thread.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
