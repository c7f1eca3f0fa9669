"""The typed client: in and out the structs of `schemas`.

It has methods for routes that several commands use. A command calls the routes of its own by `call` and `pages`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from api.client.transport import QueryValue, Transport
from schemas.accounts import DEVICE_COOKIE, CreatedTokenResource, CreateTokenRequest, LoginRequest, UserResource
from schemas.administration import DeadJobResource, JobPlace, ProcessResource, QueueResource
from schemas.deployments import CreateDeploymentRequest, DeploymentResource, LogLineResource
from schemas.projects import (
    CreateProjectRequest,
    DevelopmentEnvironmentResource,
    EnvironmentVariableResource,
    ProjectResource,
    RepositoryCredentialsResource,
    SetRepositoryCredentialsRequest,
    SetVariableRequest,
    UpdateProjectRequest,
)

T = TypeVar("T")

_PAGE = 100
_LOG_PAGE = 1000


class AccessToken(msgspec.Struct, rename="camel"):
    """What the CLI needs of the answer to a login."""

    access_token: str


class ApiClient:
    """Every method raises ApiError and Unreachable (api.client.errors). Close it, or use it as a context manager."""

    def __init__(
        self,
        base_url: str,
        token: str | None,
        *,
        http_transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.transport = Transport(base_url, token, http_transport=http_transport, pause=pause)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.transport.close()

    def create_token(self, email: str, password: str, name: str, device: str | None = None) -> CreatedTokenResource:
        """Logs in and makes an API token; the login's own access token is forgotten. `device`: of an earlier login."""
        session = self.transport.request(
            "POST",
            "/auth/login",
            AccessToken,
            body=LoginRequest(email=email, password=password),
            cookie=None if device is None else f"{DEVICE_COOKIE}={device}",
        ).data
        return self.transport.request(
            "POST",
            "/auth/tokens",
            CreatedTokenResource,
            body=CreateTokenRequest(name=name),
            authorization=f"Bearer {session.access_token}",
        ).data

    @property
    def device(self) -> str | None:
        """What the API has told this client to be known by at its next login."""
        return self.transport.http.cookies.get(DEVICE_COOKIE)

    def user(self) -> UserResource:
        return self.call("GET", "/auth/me", UserResource)

    def projects(self, *, limit: int | None = None) -> Iterator[ProjectResource]:
        """Newest first; all of them without a limit."""
        return self.pages("/projects", list[ProjectResource], {}, limit)

    def project(self, project_id: str) -> ProjectResource:
        return self.call("GET", f"/projects/{path_part(project_id)}", ProjectResource)

    def project_by_slug(self, slug: str) -> ProjectResource:
        return self.call("GET", f"/projects/by-slug/{path_part(slug)}", ProjectResource)

    def create_project(self, request: CreateProjectRequest) -> ProjectResource:
        return self.call("POST", "/projects", ProjectResource, body=request, key=_new_key())

    def update_project(self, project_id: str, request: UpdateProjectRequest) -> ProjectResource:
        return self.call("PATCH", f"/projects/{path_part(project_id)}", ProjectResource, body=request)

    def development_variables(self, project_id: str) -> DevelopmentEnvironmentResource:
        path = f"/projects/{path_part(project_id)}/env/for-development"
        return self.call("GET", path, DevelopmentEnvironmentResource)

    def variables(self, project_id: str) -> list[EnvironmentVariableResource]:
        return self.call("GET", f"/projects/{path_part(project_id)}/env", list[EnvironmentVariableResource])

    def set_variable(self, project_id: str, key: str, request: SetVariableRequest) -> EnvironmentVariableResource:
        path = f"/projects/{path_part(project_id)}/env/{path_part(key)}"
        return self.call("PUT", path, EnvironmentVariableResource, body=request)

    def delete_variable(self, project_id: str, key: str) -> None:
        self.call("DELETE", f"/projects/{path_part(project_id)}/env/{path_part(key)}", type(None))

    def repository_credentials(self, project_id: str) -> RepositoryCredentialsResource:
        path = f"/projects/{path_part(project_id)}/repository-credentials"
        return self.call("GET", path, RepositoryCredentialsResource)

    def set_repository_credentials(
        self, project_id: str, request: SetRepositoryCredentialsRequest
    ) -> RepositoryCredentialsResource:
        path = f"/projects/{path_part(project_id)}/repository-credentials"
        return self.call("PUT", path, RepositoryCredentialsResource, body=request)

    def delete_repository_credentials(self, project_id: str) -> None:
        self.call("DELETE", f"/projects/{path_part(project_id)}/repository-credentials", type(None))

    def create_deployment(self, request: CreateDeploymentRequest) -> DeploymentResource:
        return self.call("POST", "/deployments", DeploymentResource, body=request, key=_new_key())

    def deployments(
        self,
        project_id: str | None = None,
        *,
        statuses: tuple[str, ...] = (),
        branch: str | None = None,
        is_preview: bool | None = None,
        limit: int | None = None,
    ) -> Iterator[DeploymentResource]:
        """Newest first, fetched page by page as they are asked for."""
        query: dict[str, QueryValue | None] = {
            "projectId": project_id,
            "status": ",".join(statuses) or None,
            "branch": branch,
            "isPreview": None if is_preview is None else str(is_preview).lower(),
        }
        return self.pages("/deployments", list[DeploymentResource], query, limit)

    def deployment(self, deployment_id: str) -> DeploymentResource:
        return self.call("GET", f"/deployments/{path_part(deployment_id)}", DeploymentResource)

    def cancel(self, deployment_id: str) -> DeploymentResource:
        return self._command(deployment_id, "cancel")

    def rollback(self, deployment_id: str) -> DeploymentResource:
        """Makes production serve this deployment again."""
        return self._command(deployment_id, "rollback")

    def promote(self, deployment_id: str) -> DeploymentResource:
        return self._command(deployment_id, "promote")

    def queues(self) -> list[QueueResource]:
        """Every pool; for administrators of the platform, as the four that follow."""
        return self.call("GET", "/admin/queues", list[QueueResource])

    def processes(self) -> list[ProcessResource]:
        """Every process of the platform; for its administrators."""
        return self.call("GET", "/admin/workers", list[ProcessResource])

    def pause_pool(self, pool: str) -> QueueResource:
        return self.call("POST", f"/admin/queues/{path_part(pool)}/pause", QueueResource)

    def resume_pool(self, pool: str) -> QueueResource:
        return self.call("POST", f"/admin/queues/{path_part(pool)}/resume", QueueResource)

    def dead_jobs(self, *, pool: str | None = None, limit: int = 100) -> list[DeadJobResource]:
        return self.call("GET", "/admin/jobs", list[DeadJobResource], query={"pool": pool, "limit": limit})

    def retry_job(self, job_id: str) -> JobPlace:
        return self.call("POST", f"/admin/jobs/{path_part(job_id)}/retry", JobPlace)

    def drop_job(self, job_id: str) -> JobPlace:
        return self.call("POST", f"/admin/jobs/{path_part(job_id)}/drop", JobPlace)

    def log_lines(self, deployment_id: str, *, after: int = 0) -> Iterator[list[LogLineResource]]:
        """Pages of the lines with a number above `after`, in order, to where the log ends now."""
        return self._log_pages(deployment_id, {"after": after, "limit": _LOG_PAGE})

    def last_log_lines(self, deployment_id: str, count: int) -> list[LogLineResource]:
        """At most `count`, in order."""
        lines: list[LogLineResource] = []
        query: dict[str, QueryValue | None] = {"limit": min(count, _LOG_PAGE), "direction": "backward"}
        for page in self._log_pages(deployment_id, query):
            lines.extend(page)
            if len(lines) >= count:
                break
        return lines[:count][::-1]

    def log_stream_path(self, deployment_id: str) -> str:
        return f"/deployments/{path_part(deployment_id)}/logs/stream"

    def _command(self, deployment_id: str, name: str) -> DeploymentResource:
        # The key makes a repeat after a lost answer harmless, also for `cancel`, which is a no-op then anyway.
        return self.call("POST", f"/deployments/{path_part(deployment_id)}/{name}", DeploymentResource, key=_new_key())

    def call(
        self,
        method: str,
        path: str,
        result: type[T],
        *,
        query: dict[str, QueryValue | None] | None = None,
        body: msgspec.Struct | None = None,
        key: str | None = None,
    ) -> T:
        """The data of the answer. `path` is below /api; `key` makes a repeat harmless."""
        return self.transport.request(method, path, result, query=query, body=body, idempotency_key=key).data

    def _log_pages(self, deployment_id: str, query: dict[str, QueryValue | None]) -> Iterator[list[LogLineResource]]:
        path = f"/deployments/{path_part(deployment_id)}/logs"
        has_more = True
        while has_more:
            answer = self.transport.request("GET", path, list[LogLineResource], query=query)
            if answer.data:
                yield answer.data
            pagination = answer.meta.pagination
            has_more = pagination is not None and pagination.has_more and pagination.cursor is not None
            query = {**query, "after": pagination.cursor if pagination is not None else None}

    def pages(
        self, path: str, page: type[list[T]], query: dict[str, QueryValue | None], limit: int | None
    ) -> Iterator[T]:
        """The items of a list, fetched page by page as they are asked for; all of them without a limit."""
        cursor: str | None = None
        remaining = limit
        while remaining is None or remaining > 0:
            size = _PAGE if remaining is None else min(_PAGE, remaining)
            answer = self.transport.request("GET", path, page, query={**query, "limit": size, "cursor": cursor})
            yield from answer.data
            pagination = answer.meta.pagination
            if pagination is None or not pagination.has_more or pagination.cursor is None:
                return
            cursor = pagination.cursor
            remaining = None if remaining is None else remaining - len(answer.data)


def path_part(value: str) -> str:
    """One segment of a path: a slash or a dot segment in an argument can't reach another route."""
    return quote(value, safe="").replace(".", "%2E")


def _new_key() -> str:
    return str(uuid.uuid4())
