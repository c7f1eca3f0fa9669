"""A tenant, or somebody without an account, floods the API: everybody else is answered, and health, too."""

from __future__ import annotations

from collections.abc import Generator

import httpx
import pytest

from shared.accounts.permissions import Role
from shared.settings import Settings
from tests.support.floods import FLOODS, Flood
from tests.support.live_api import TIMEOUT_SECONDS, LiveApi, live_api
from tests.support.log_rows import eventually, line

THREADS = 12


@pytest.fixture
def api(settings: Settings) -> Generator[LiveApi]:
    with live_api(settings) as running:
        yield running


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_is_its_senders_alone(api: LiveApi, kind: str) -> None:
    flooding, other = api.user("flood@example.com"), api.user("grace@example.com")
    deployment_id = api.deployment(flooding, role=Role.OWNER)
    api.write(deployment_id, *[line("x" * 200) for _ in range(1000)])
    with (
        httpx.Client(base_url=api.url, timeout=TIMEOUT_SECONDS, trust_env=False) as client,
        Flood(api.url, kind, threads=THREADS, headers=flooding.bearer, deployment=deployment_id) as flood,
    ):
        eventually(lambda: flood.statuses.total() >= THREADS, TIMEOUT_SECONDS)
        for _ in range(5):
            assert client.get("/api/projects", headers=other.bearer).status_code == 200
            assert client.get("/api/health/live").status_code == 200
    assert 500 not in flood.statuses
    assert set(flood.statuses) <= {0, 200, 201, 401, 402, 409, 413, 422, 429, 503}, flood.statuses
