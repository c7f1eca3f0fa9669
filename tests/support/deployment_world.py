"""The deployment service, the lifecycle and the reconciler on a test's own database and Redis."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.deployments import CreateDeploymentRequest
from shared.clock import SystemClock
from shared.db.database import Database
from shared.deployments.former_repository import FormerDeploymentRepository
from shared.deployments.repository import DeploymentRepository
from shared.deployments.service import DeploymentService
from shared.deployments.stage_run_repository import StageRunRepository
from shared.deployments.state import Stage
from shared.deployments.termination_service import TerminationService
from shared.identifiers import PROJECT, TENANT, new_identifier
from shared.logs.notifier import RedisNotifier
from shared.logs.store import PostgresLogStore
from shared.queue.connection import connect_redis
from shared.queue.job_queue import RedisJobQueue
from shared.releases.repository import ReleaseRepository
from shared.releases.route_repair import RouteRepair
from shared.releases.service import ReleaseService
from shared.releases.site_repository import SiteRepository
from shared.routing.bell import RouteBell
from shared.routing.log import RouteLog
from shared.routing.routers import RouterRepository
from shared.settings import Settings, load_settings
from tests.support.routes import RoutesWithoutRouters
from workers.pipeline.lifecycle import Beginning, LifecycleService
from workers.pipeline.release_lifecycle import ReleaseLifecycleService
from workers.pipeline.stage import StageResult
from workers.reconciler import Reconciler


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    key = base64.b64encode(bytes(32)).decode()
    return load_settings(
        {
            "CLOUDIFY_HOME": str(tmp_path),
            "CLOUDIFY_DATABASE_URL": "postgresql://unused",
            "CLOUDIFY_REDIS_URL": "redis://unused",
            "CLOUDIFY_S3_ENDPOINT": "http://unused",
            "CLOUDIFY_S3_ACCESS_KEY": "x",
            "CLOUDIFY_S3_SECRET_KEY": "x",
            "CLOUDIFY_SECRET_KEY": "k" * 32,
            "CLOUDIFY_ENCRYPTION_KEYS": f"k1:{key}",
        }
    )


@pytest.fixture
def world(database: Database, redis_url: str, settings: Settings) -> Iterator[Any]:
    redis = connect_redis(redis_url, timeout_seconds=120)
    queue = RedisJobQueue(redis, lease_seconds=30)
    parts: dict[str, Any] = {
        "database": database,
        "deployments": DeploymentRepository(database),
        "stage_runs": StageRunRepository(database),
        "releases": ReleaseRepository(database),
        "sites": SiteRepository(database),
        "log_store": PostgresLogStore(database),
        "notifier": RedisNotifier(redis),
        "clock": SystemClock(),
    }
    sites = {"site_settings": settings.sites}
    limits = {"limits": settings.limits}
    service_parts = {name: part for name, part in parts.items() if name not in ("releases", "sites")} | {"queue": queue}

    def service_with(**others: Any) -> DeploymentService:
        own_parts = service_parts | others
        return DeploymentService(terminations=TerminationService(**own_parts), **own_parts, **sites)

    terminations = TerminationService(**service_parts)

    def make_reconciler(queue: RedisJobQueue, **others: Any) -> Reconciler:
        return Reconciler(
            database=database,
            queue=queue,
            deployments=parts["deployments"],
            stage_runs=parts["stage_runs"],
            releases=parts["releases"],
            sites=parts["sites"],
            terminations=terminations,
            routes=RouteRepair(database, RouteLog(database)),
            route_log=RouteLog(database),
            routers=RouterRepository(database),
            bell=RouteBell(redis),
            interval_seconds=0.05,
            **others,
        )

    tenant_id, project_id = new_identifier(TENANT), new_identifier(PROJECT)
    with database.transaction() as connection:
        connection.execute("INSERT INTO tenants (id, name) VALUES (%s, 'tests')", (tenant_id,))
        connection.execute(
            "INSERT INTO projects (id, tenant_id, name, slug, repository_url) VALUES (%s, %s, 'Demo', 'demo', %s)",
            (project_id, tenant_id, "https://git.example.org/demo.git"),
        )
    yield SimpleNamespace(
        **parts,
        former_deployments=FormerDeploymentRepository(database),
        settings=settings,
        queue=queue,
        redis=redis,
        service=service_with(),
        terminations=terminations,
        service_with=service_with,
        release_service=ReleaseService(
            queue=queue,
            **{name: parts[name] for name in ("database", "deployments", "stage_runs", "releases")},
            **sites,
        ),
        lifecycle=LifecycleService(**parts, **limits, **sites),
        release_lifecycle=ReleaseLifecycleService(**{name: parts[name] for name in ("database", "releases", "sites")}),
        lifecycle_with=lambda **others: LifecycleService(**(parts | limits | sites | others)),
        publisher=RoutesWithoutRouters(database),
        make_reconciler=make_reconciler,
        reconciler=make_reconciler(queue),
        tenant_id=tenant_id,
        project_id=project_id,
    )
    redis.close()


def create(world: Any, *, trigger: str = "api", **options: Any) -> str:
    request = CreateDeploymentRequest(project_id=world.project_id, **options)
    return world.service.create(world.tenant_id, request, created_by=None, trigger=trigger).id


def entries(world: Any, deployment_id: str) -> list[Any]:
    return [numbered.entry for numbered in world.log_store.read(deployment_id, after=0, limit=1000)]


READY = StageResult({"manifest": "d" * 64}, facts={"manifest_digest": "d" * 64})


def run_to_end(world: Any, deployment_id: str, fence: int = 10) -> bool:
    for stage in list(Stage)[:-1]:
        begun = world.lifecycle.begin_stage(world.tenant_id, deployment_id, stage, fence=fence, worker="w")
        assert begun.beginning is Beginning.RUN
        world.lifecycle.succeed_stage(deployment_id, stage, fence=fence, result=StageResult({"of": stage.value}))
    begun = world.lifecycle.begin_stage(world.tenant_id, deployment_id, Stage.DEPLOY, fence=fence, worker="w")
    change_routes = world.publisher.change_routes
    number = world.lifecycle.publish(begun.row, READY.facts, fence=fence, change_routes=change_routes)
    world.lifecycle.finish_ready(begun.row, READY, fence=fence)
    return number is not None
