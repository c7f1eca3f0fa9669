"""The stores of an evaluation answer to other machines, with the password alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import redis

from shared.errors import PlatformError
from shared.settings import ObjectStoreSettings
from shared.stack import evaluation_stores
from shared.stack.home import Home
from shared.storage.object_store import S3ArtifactStore
from tests.support.ports import free_ports

_PASSWORD = "p" * 24


def _own_address() -> str:
    """An address of this machine other than loopback; none is contacted."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[dict[str, int]]:
    ports = dict(zip(("postgres", "valkey", "s3"), free_ports(3), strict=True))
    home = Home(tmp_path / "home")
    with ExitStack() as open_home:
        home.lock()
        open_home.callback(home.unlock)
        platform = evaluation_stores.assembly(_PASSWORD, ports=ports).assemble(home, {})
        for server in platform.servers:
            server.start()
            open_home.callback(server.stop)
        for server in platform.servers:
            server.wait(120)
        yield ports


def test_each_store_answers_to_the_password_from_elsewhere(stores: dict[str, int]) -> None:
    address = _own_address()
    database = f"postgresql://cloudify:{{}}@{address}:{stores['postgres']}/cloudify"
    with psycopg.connect(database.format(_PASSWORD)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database.format("wrong")).close()

    with redis.Redis(host=address, port=stores["valkey"], password=_PASSWORD) as queue:
        assert queue.ping()
    with redis.Redis(host=address, port=stores["valkey"], password="wrong") as stranger:
        with pytest.raises(redis.AuthenticationError):
            stranger.ping()

    own = ObjectStoreSettings(
        endpoint=f"http://{address}:{stores['s3']}", access_key=evaluation_stores.ACCESS_KEY, secret_key=_PASSWORD
    )
    S3ArtifactStore(own).put_bytes("key", b"content")
    assert S3ArtifactStore(own).get_bytes("key") == b"content"
    with pytest.raises(PlatformError):
        S3ArtifactStore(replace(own, secret_key="wrong")).get_bytes("key")


@pytest.mark.parametrize("password", ["short", "with spaces and more of them", ""])
def test_a_weak_password_is_refused(tmp_path: Path, password: str) -> None:
    file = tmp_path / "password"
    file.write_text(password)
    assert evaluation_stores.main([str(file)]) == 2
