"""The whole API in this process, and an account on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
from litestar import Litestar
from litestar.testing import TestClient

from api.backends import Backends
from api.services import Services
from shared.accounts.permissions import Role
from shared.accounts.tenant_repository import TenantRepository

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
