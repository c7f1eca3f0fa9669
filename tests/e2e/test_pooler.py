"""The whole platform on a database behind PgBouncer in transaction mode."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from shared.stack.postgres import PostgresServer
from tests.support.databases import fresh_database
from tests.support.pooler import find_pgbouncer, pooled
from tests.support.repositories import commit, make_repository
from tests.support.running_platform import Platform, wait_for
from tests.support.sites import BUILD, node_site

pytestmark = pytest.mark.e2e

PROGRAM = find_pgbouncer()
# Far less than the processes have threads.
CONNECTIONS = 8


@pytest.fixture
def direct_url(postgres_server: PostgresServer) -> Iterator[str]:
    with fresh_database(postgres_server, "template0") as url:
        yield url


@pytest.fixture
def pooled_platform(direct_url: str, tmp_path: Path) -> Iterator[Platform]:
    if PROGRAM is None:
        pytest.skip("PgBouncer isn't installed; .ci/run unpacks the Debian package pgbouncer into .venv")
    with pooled(PROGRAM, direct_url, connections=CONNECTIONS) as url:
        settings = {"DATABASE_URL": url, "DATABASE_POOLED": "true", "LEASE_SECONDS": "8", "RECONCILE_SECONDS": "1"}
        platform = Platform(tmp_path / "pooled", **settings)
        try:
            platform.start()
            yield platform
        finally:
            platform.close()


def test_deployments_and_rollbacks(pooled_platform: Platform, direct_url: str, repositories: Path, tmp_path: Path):
    platform = pooled_platform
    url = make_repository(repositories / "site", node_site("version one"))
    project = platform.create_project("pooled", url, **BUILD)
    first = platform.finish(platform.create_deployment(project["id"])["id"])
    assert first["status"] == "ready", (first["error"], platform.log_text(first["id"]))
    assert [run["stage"] for run in first["stages"]] == ["clone", "install", "build", "upload", "deploy"]
    for version in ("two", "three", "four"):
        commit(repositories / "site", node_site(f"version {version}"))
        deployed = platform.finish(platform.create_deployment(project["id"])["id"])
        assert deployed["status"] == "ready", deployed["error"]
        assert f"version {version}" in platform.get_site("pooled").text
        assert "built version" in platform.log_text(deployed["id"])
    platform.call("POST", f"/api/deployments/{first['id']}/rollback", status=202)
    wait_for(lambda: "version one" in platform.get_site("pooled").text, what="the old one is served")
    held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(direct_url) as connection:
        row = connection.execute(held).fetchone()
    assert row is not None
    assert 0 < row[0] <= CONNECTIONS
    for role in platform.records():
        log = platform.home / "logs" / f"{role}.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        assert not re.search(r"prepared statement|startup parameter|does not answer", text), (role, text[-2000:])

    # pg_dump sets the search path of its session, which the next client would get.
    assert "A pooler is between" in admin(platform, "backup", str(tmp_path / "refused"))
    admin(platform, "backup", "--database-url", direct_url, str(tmp_path / "taken"))
    assert (tmp_path / "taken").exists()
    assert platform.deployment(first["id"])["isActive"]


def admin(platform: Platform, *arguments: str) -> str:
    """What the command says, on both streams."""
    ended = subprocess.run(
        [*platform.command, "admin", *arguments], env=platform.child_settings(), capture_output=True, text=True
    )
    return ended.stdout + ended.stderr
