"""Deployments: their stages, their place in the queue and the lines of their log."""

from __future__ import annotations

from datetime import datetime

import msgspec

from schemas.base import Request, Resource
from schemas.projects import ProjectReference


class CreateDeploymentRequest(Request):
    project_id: str
    branch: str | None = None
    commit_sha: str | None = None
    is_preview: bool = False
    clean: bool = False
    if_changed: bool = False
    priority: int = 5


class StageRunResource(Resource):
    stage: str
    status: str
    attempt: int
    is_cache_hit: bool
    started_at: datetime
    finished_at: datetime | None
    duration_seconds: float | None


class DeploymentError(Resource):
    code: str
    stage: str | None
    message: str


class QueuePosition(Resource):
    """`reason`: plan_limit, pool_busy, delayed, paused, no_workers, running; times in seconds from now."""

    pool: str
    position: int | None
    reason: str
    holders: list[str]
    estimated_start_seconds: list[float] | None = None


class DeploymentResource(Resource):
    """`branch`: None until the clone has found the repository's default branch, where no branch was named."""

    id: str
    project_id: str
    project: ProjectReference
    status: str
    branch: str | None
    commit_sha: str | None
    commit_message: str | None
    url: str | None
    build_time_seconds: float | None
    is_active: bool
    is_preview: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    stages: list[StageRunResource]
    error: DeploymentError | None
    queue: QueuePosition | None
    created_by: str | None
    trigger: str
    # Why there was nothing to build, of a deployment that was asked for with ifChanged.
    ignored: str | None = None
    # What its owner has to know although it is ready, such as that its address itself shows no page.
    warnings: list[str] = msgspec.field(default_factory=list[str])


class LogLineResource(Resource, omit_defaults=True):
    """`continued`: the line was too long for one entry and continues in the next one of its stage and stream."""

    seq: int
    ts: int
    stage: str
    stream: str
    text: str
    continued: bool = False
