"""The whole API in this process, on real PostgreSQL, Valkey and S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import Litestar
from litestar.testing import TestClient

from api.app import create_app
from api.composition import Backends, build_services, build_stream_hub, connect_backends, running_hub
from api.services import Services
from shared.accounts.permissions import Role
from shared.accounts.tenant_repository import TenantRepository
from shared.settings import (
    ApiSettings,
    DatabaseSettings,
    DirectorySettings,
    ObjectStoreSettings,
    QueueSettings,
    SecretSettings,
    Settings,
)

PASSWORD = "correct horse battery"


@dataclass
class Platform:
    app: Litestar
    services: Services
    backends: Backends
    client: TestClient[Any]

    def register(self, email: str) -> Account:
        response = self.client.post("/api/auth/register", json={"email": email, "password": PASSWORD})
        assert response.status_code == 201, response.text
        self.client.cookies.clear()
        data = response.json()["data"]
        return Account(self, data["user"]["id"], {"Authorization": f"Bearer {data['accessToken']}"})


@dataclass
class Account:
    platform: Platform
    user_id: str
    headers: dict[str, str]

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return self.platform.client.request(method, path, headers=headers, **options)

    @property
    def tenant_id(self) -> str:
        return self.platform.services.tenants.memberships_of(self.user_id)[0].tenant_id

    def project(self, name: str = "site") -> dict[str, Any]:
        body = {"name": name, "repositoryUrl": "https://git.example.com/team/site.git"}
        response = self.request("POST", "/api/projects", json=body)
        assert response.status_code == 201, response.text
        return response.json()["data"]

    def join(self, other: Account, role: Role) -> None:
        """This account becomes a member of the other's tenant."""
        with self.platform.backends.database.transaction() as connection:
            TenantRepository(self.platform.backends.database).insert_membership(
                connection, tenant_id=other.tenant_id, user_id=self.user_id, role=role
            )


@pytest.fixture
def settings(database_url: str, redis_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path) -> Settings:
    return Settings(
        directories=DirectorySettings(home=tmp_path),
        database=DatabaseSettings(url=database_url),
        queue=QueueSettings(redis_url=redis_url),
        object_store=object_store_settings,
        secrets=SecretSettings(
            secret_key=b"a secret of the tests, 32 bytes or more", encryption_keys={"k1": b"1" * 32}
        ),
        api=ApiSettings(registration_enabled=True, hosts=("testserver.local",)),
    )


@pytest.fixture
def platform(settings: Settings) -> Iterator[Platform]:
    backends = connect_backends(settings)
    hub = build_stream_hub(settings, backends)
    services = build_services(settings, backends, stream_hub=hub)
    try:
        app = create_app(services, lifespan=[partial(running_hub, hub)])
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
