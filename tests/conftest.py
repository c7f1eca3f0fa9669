"""Real servers for tests: started once, when the first test asks, on free ports and in a temporary folder."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import closing
from typing import TypeVar

import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from minio import Minio

from shared.db.database import Database
from shared.db.migrate import migrate
from shared.errors import Unavailable
from shared.settings import ObjectStoreSettings
from shared.stack.object_store import ObjectStorePorts, ObjectStoreServer
from shared.stack.postgres import PostgresServer
from shared.stack.server import Server
from shared.stack.valkey import ValkeyServer
from tests.support.build_times import pytest_terminal_summary  # noqa: F401 - a hook
from tests.support.cluster_images import cluster_images  # noqa: F401 - a fixture
from tests.support.databases import fresh_database
from tests.support.docker_engine import docker_engine  # noqa: F401 - a fixture
from tests.support.installed_platform import cluster_surroundings  # noqa: F401 - a fixture
from tests.support.kubernetes_cluster import kubernetes  # noqa: F401 - a fixture
from tests.support.ports import free_ports
from tests.support.sites_namespace import site_namespace  # noqa: F401 - a fixture

S = TypeVar("S", bound=Server)
_buckets = itertools.count(1)
_FIRST_TRIES = 3

# Who starts the tests in the background may have made them, and so all that they start, ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Of the object stores that tests start, also those of whole platforms. Near the platform's own limit of 256 MiB, which
# saves memory, a store with the objects of many tests spends four times as much processor time, most on collection.
os.environ["GOMEMLIMIT"] = "512MiB"

# An example may take as long as it likes: the machine that runs the tests is busy with others.
hypothesis_settings.register_profile(
    "any-machine", parent=hypothesis_settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("any-machine")


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Parts of the platform change it for the whole process."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def _running(server: S) -> Iterator[S]:
    try:
        server.start()
        server.wait(120)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    [port] = free_ports(1)
    directory = tmp_path_factory.mktemp("postgres")
    yield from _running(PostgresServer(directory, port=port, password=secrets.token_hex(16), is_durable=False))


@pytest.fixture(scope="session")
def _template_database(postgres_server: PostgresServer) -> str:
    migrate(postgres_server.url)
    return "cloudify"


@pytest.fixture
def database_url(postgres_server: PostgresServer, _template_database: str) -> Iterator[str]:
    """A migrated database of the test's own."""
    with fresh_database(postgres_server, _template_database) as url:
        yield url


def _patient(url: str) -> Database:
    """Connected, and with a longer wait than the product's: the server of a busy machine may take its time."""
    database = Database(url, timeout_seconds=60)
    for _ in range(_FIRST_TRIES - 1):
        # Each try to connect has a limit of its own, after which the pool may wait for nothing.
        with contextlib.suppress(Unavailable):
            database.ping()
            return database
    database.ping()
    return database


@pytest.fixture(scope="module")
def module_database(postgres_server: PostgresServer, _template_database: str) -> Iterator[Database]:
    """One for all tests of a module: for what is slow to make and harms nobody."""
    with fresh_database(postgres_server, _template_database) as url, closing(_patient(url)) as database:
        yield database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = _patient(database_url)
    try:
        yield database
    finally:
        database.close()


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    [port] = free_ports(1)
    directory = tmp_path_factory.mktemp("valkey")
    yield from _running(ValkeyServer(directory, port=port, password=secrets.token_hex(16), is_durable=False))


@pytest.fixture
def redis_url(valkey_server: ValkeyServer) -> str:
    """A Redis that holds nothing yet."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
        client.script_flush()
    return valkey_server.url


@pytest.fixture(scope="session")
def object_store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    yield from _running(
        ObjectStoreServer(
            tmp_path_factory.mktemp("object-store"),
            ports=ObjectStorePorts(*free_ports(8)),
            access_key="tests",
            secret_key=secrets.token_hex(20),
        )
    )


def fresh_bucket(object_store_server: ObjectStoreServer) -> ObjectStoreSettings:
    settings = object_store_server.settings(bucket=f"test-{next(_buckets)}")
    client = Minio(
        settings.endpoint.removeprefix("http://"), settings.access_key, settings.secret_key, secure=False,
        region=settings.region,
    )  # fmt: skip
    client.make_bucket(settings.bucket)
    return settings


@pytest.fixture
def object_store_settings(object_store_server: ObjectStoreServer) -> ObjectStoreSettings:
    """An S3 server with a bucket of the test's own."""
    return fresh_bucket(object_store_server)


@pytest.fixture(scope="module")
def module_object_store_settings(object_store_server: ObjectStoreServer) -> ObjectStoreSettings:
    """As `module_database`."""
    return fresh_bucket(object_store_server)
