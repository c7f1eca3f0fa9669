"""What the API shows. JSON is camelCase; times are ISO 8601 in UTC."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Resource(msgspec.Struct, kw_only=True, rename="camel"):
    """Base of all response structs."""


class UserResource(Resource):
    id: str
    email: str
    name: str
    plan: str
    image: str | None


class TokenResource(Resource):
    id: str
    name: str
    prefix: str
    scopes: list[str]
    expires_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime


class CreatedTokenResource(TokenResource):
    """`token` is shown this once."""

    token: str


class ProjectResource(Resource):
    id: str
    name: str
    slug: str
    repository_url: str | None
    repository_branch: str
    root_directory: str
    framework: str | None
    install_command: str | None
    build_command: str | None
    output_directory: str | None
    node_version: str | None
    url: str
    is_pinned: bool
    active_deployment_id: str | None
    created_at: datetime
    updated_at: datetime


class ProjectReference(Resource):
    name: str
    slug: str


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
    id: str
    project_id: str
    project: ProjectReference
    status: str
    branch: str
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


class RepositoryCredentialsResource(Resource):
    """The secret itself is never read back. `host`: the only one that gets it, as scheme://host:port.

    `fingerprint` and `public_key` are those of a deploy key.
    """

    kind: str
    host: str
    username: str | None
    fingerprint: str | None
    public_key: str | None
    updated_at: datetime


class EnvironmentVariableResource(Resource):
    """Values are never read back."""

    key: str
    targets: list[str]
    stages: list[str]
    created_at: datetime
    updated_at: datetime


class DevelopmentEnvironmentResource(Resource):
    """`withheld`: names of variables that hold for development but for builds as well; their values stay here."""

    variables: dict[str, str]
    withheld: list[str]


class LogLineResource(Resource, omit_defaults=True):
    """`continued`: the line was too long for one entry and goes on in the next one of its stage and stream."""

    seq: int
    ts: int
    stage: str
    stream: str
    text: str
    continued: bool = False
