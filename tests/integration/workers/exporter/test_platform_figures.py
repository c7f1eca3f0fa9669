"""What the exporter reads from real servers."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shared.db.database import Database
from shared.deployments.state import Stage
from shared.routing.routers import RouterReport, RouterRepository
from shared.settings import ObjectStoreSettings, Settings
from tests.support.certificates import write_certificate
from tests.support.deployment_world import create, settings, world
from workers.exporter.certificates import expiry_of_bundle
from workers.exporter.sources import PlatformFigures

__all__ = ["settings", "world"]
pytestmark = pytest.mark.integration

Value = Callable[..., float | None]


def _figures(settings: Settings, database_url: str, redis_url: str, store: ObjectStoreSettings) -> PlatformFigures:
    return PlatformFigures(
        dataclasses.replace(
            settings,
            database=dataclasses.replace(settings.database, url=database_url),
            queue=dataclasses.replace(settings.queue, redis_url=redis_url),
            object_store=store,
        )
    )


@pytest.fixture
def value(settings: Settings, database_url: str, redis_url: str, object_store_settings: ObjectStoreSettings) -> Any:
    made: list[PlatformFigures] = []

    def read(name: str, **labels: str) -> float | None:
        if not made:
            made.append(_figures(settings, database_url, redis_url, object_store_settings))
        registry = CollectorRegistry()
        registry.register(made[0].collector)
        return registry.get_sample_value(f"cloudify_{name}", labels)

    yield read
    for figures in made:
        figures.close()


def test_queue_sessions_routers_and_dependencies_are_shown(world: Any, value: Value, database: Database) -> None:
    create(world)
    routers = RouterRepository(database)
    with database.transaction() as connection:
        epoch = connection.fetch_value(str, "SELECT epoch FROM route_log") or ""
        connection.execute("UPDATE route_log SET last_number = 7")
        connection.execute("INSERT INTO users (id, email, password_hash) VALUES ('user_a', 'a@example.com', 'x')")
        connection.execute(
            "INSERT INTO logins (id, user_id, expires_at, revoked_at) VALUES ('1', 'user_a', now() + '1 day', NULL),"
            " ('2', 'user_a', now() - '1 day'::interval, NULL), ('3', 'user_a', now() + '1 day', now())"
        )
    for name, applied, problem in (("a", 7, None), ("b", 4, None), ("c", 7, "starting")):
        routers.report(
            RouterReport(
                id=name, machine="m", version="1", url="http://m", epoch=epoch, applied_number=applied,
                snapshot_number=0, problem=problem, sites=1,
            )
        )  # fmt: skip
    assert value("queue_depth", queue="clone") == 1
    assert value("builds_waiting_quota") == 0
    assert value("active_sessions") == 1
    assert value("routers", state="ready") == 2
    assert value("routers", state="not_ready") == 1
    assert value("routers_lag_changes") == 3
    for dependency in ("database", "redis", "object_store"):
        assert value("dependency_up", dependency=dependency) == 1


def test_servers_that_do_not_answer_are_down_and_their_figures_missing(settings: Settings) -> None:
    figures = _figures(
        settings,
        "postgresql://127.0.0.1:1/none",
        "redis://127.0.0.1:1/0",
        dataclasses.replace(settings.object_store, endpoint="http://127.0.0.1:1"),
    )
    try:
        registry = CollectorRegistry()
        registry.register(figures.collector)
        for dependency in ("database", "redis", "object_store"):
            assert registry.get_sample_value("cloudify_dependency_up", {"dependency": dependency}) == 0
        assert registry.get_sample_value("cloudify_queue_depth", {"queue": "clone"}) is None
    finally:
        figures.close()


def test_a_deployment_is_stuck_without_progress_but_not_behind_another_of_its_tenant(
    world: Any, database: Database
) -> None:
    running, waiting = create(world), create(world)

    def age(statement: str, *parameters: str) -> None:
        with database.transaction() as connection:
            connection.execute(statement.encode(), parameters)

    age("UPDATE deployments SET created_at = now() - interval '3 hours'")
    assert world.deployments.count_stuck() == {"queued": 2}
    world.lifecycle.begin_stage(world.tenant_id, running, Stage.CLONE, fence=1, worker="w")
    assert world.deployments.count_stuck() == {}
    age("UPDATE stage_runs SET started_at = now() - interval '3 hours' WHERE deployment_id = %s", running)
    assert world.deployments.count_stuck() == {"cloning": 1}
    age("UPDATE deployments SET status = 'cancelled', finished_at = now() WHERE id = %s", running)
    assert world.deployments.count_stuck() == {"queued": 1}
    age("UPDATE deployments SET created_at = now() WHERE id = %s", waiting)
    assert world.deployments.count_stuck() == {}


def test_the_first_end_of_a_bundle_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "bundle.pem"
    write_certificate(path)
    assert 0 < expiry_of_bundle(path) - time.time() < 90_000
