"""A stage's context for tests that run one stage by itself."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from shared.db.database import Database
from shared.deployments.state import SiteRuntime, Stage
from shared.plans import LIMITS, Plan
from shared.projects.repository_credentials import RepositoryCredentials
from shared.settings import (
    DatabaseSettings,
    DirectorySettings,
    NetworkSettings,
    ObjectStoreSettings,
    QueueSettings,
    SecretSettings,
    Settings,
)
from workers.pipeline.stage import DeploymentView, StageContext, StageInputs

TENANT = "ten_1"
PROJECT = "proj_1"


class RecordedLog:
    """A StageLog that records its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._lock = threading.Lock()

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        with self._lock:
            self.lines.append(f"{stream}: {data.decode('utf-8', 'replace')}")

    def system(self, text: str) -> None:
        with self._lock:
            self.lines.append(f"system: {text}")

    @property
    def text(self) -> str:
        return "\n".join(self.lines)


def make_settings(
    home: Path,
    store: ObjectStoreSettings,
    *,
    network: NetworkSettings = NetworkSettings(),  # noqa: B008 - it can't be changed
    secret_key: bytes = b"",
) -> Settings:
    return Settings(
        directories=DirectorySettings(home=home),
        database=DatabaseSettings(url=""),
        queue=QueueSettings(redis_url=""),
        object_store=store,
        secrets=SecretSettings(secret_key=secret_key, encryption_keys={}),
        network=network,
    )


def make_context(
    directory: Path,
    repository_url: str = "",
    *,
    inputs: Mapping[Stage, Mapping[str, Any]] | None = None,
    attempt: int = 1,
    disk_bytes: int | None = None,
    credentials: RepositoryCredentials | None = None,
    **deployment: Any,
) -> StageContext:
    directory.mkdir(parents=True)
    values: dict[str, Any] = {
        "id": "depl_1",
        "tenant_id": TENANT,
        "project_id": PROJECT,
        "project_slug": "site",
        "repository_url": repository_url,
        "allows_files": True,
        "branch": "main",
        "commit_sha": None,
        "root_directory": ".",
        "framework": None,
        "install_command": None,
        "build_command": None,
        "output_directory": None,
        "node_version": None,
        "build_network": None,
        "is_preview": False,
        "clean": False,
        "runtime": SiteRuntime.FILES,
        "replicas": 1,
        "if_changed": False,
        "host": "site",
        "release_sequence": 1,
    }
    limits = LIMITS[Plan.FREE]
    if disk_bytes is not None:
        limits = dataclasses.replace(limits, disk_bytes=disk_bytes)
    return StageContext(
        deployment=DeploymentView(**values | deployment),
        limits=limits,
        directory=directory,
        inputs=StageInputs(inputs or {}),
        log=RecordedLog(),
        cancelled=threading.Event(),
        attempt=attempt,
        variables={},
        credentials=credentials,
    )


def add_tenant(database: Database, tenant_id: str = TENANT) -> None:
    with database.transaction() as connection:
        connection.execute("INSERT INTO tenants (id, name) VALUES (%s, 'Tests')", [tenant_id])


def add_project(database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(
            "INSERT INTO projects (id, tenant_id, name, slug) VALUES (%s, %s, 'site', 'site')", [PROJECT, TENANT]
        )
