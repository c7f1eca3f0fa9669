"""The whole API in this process, on real PostgreSQL, Valkey and S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from litestar.testing import TestClient

from api.app import create_app
from api.backends import connect_backends
from api.services import build_services
from shared.settings import (
    ApiSettings,
    DatabaseSettings,
    DirectorySettings,
    NetworkSettings,
    ObjectStoreSettings,
    QueueSettings,
    SecretSettings,
    Settings,
)
from tests.support.api_platform import Account, Platform


@pytest.fixture
def settings(
    request: pytest.FixtureRequest,
    database_url: str,
    redis_url: str,
    object_store_settings: ObjectStoreSettings,
    tmp_path: Path,
) -> Settings:
    """The parameter, if there is one, is the part of the network."""
    return Settings(
        directories=DirectorySettings(home=tmp_path),
        database=DatabaseSettings(url=database_url),
        queue=QueueSettings(redis_url=redis_url),
        object_store=object_store_settings,
        secrets=SecretSettings(
            secret_key=b"a secret of the tests, 32 bytes or more", encryption_keys={"k1": b"1" * 32}
        ),
        network=getattr(request, "param", NetworkSettings()),
        api=ApiSettings(registration_enabled=True, hosts=("testserver.local",)),
    )


@pytest.fixture
def platform(settings: Settings) -> Iterator[Platform]:
    backends = connect_backends(settings)
    services = build_services(settings, backends)
    try:
        app = create_app(services, lifespan=[services.running_hubs])
        with TestClient(app, base_url="https://testserver.local", raise_server_exceptions=False) as client:
            yield Platform(app, services, backends, client)
    finally:
        services.health.close()
        backends.close()


@pytest.fixture
def account(platform: Platform) -> Account:
    return platform.register("ada@example.com")


@pytest.fixture
def register(platform: Platform) -> Callable[[str], Account]:
    return platform.register
