"""Deployments."""

from __future__ import annotations

from typing import Annotated, TypedDict

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter

from api.bodies import SMALL_BODY_BYTES
from api.connections import UserRequest
from api.errors import RequestRefused
from api.guards import authorize
from api.idempotency import IdempotentCall
from api.pagination import ListParameters, comma_separated
from api.resources import DEPLOYMENT, PROJECT
from api.responses import success
from api.services import Services
from schemas.deployments import CreateDeploymentRequest, DeploymentResource, QueuePosition
from schemas.envelope import Success
from shared.accounts.permissions import Permission
from shared.deployments.state import DeploymentStatus
from shared.errors import ErrorCode

_IDEMPOTENCY = (ErrorCode.IDEMPOTENCY_IN_PROGRESS, ErrorCode.IDEMPOTENCY_MISMATCH)
_RELEASE_ERRORS = (
    ErrorCode.NOT_READY,
    ErrorCode.ARTIFACT_EXPIRED,
    ErrorCode.CONFLICT,
    ErrorCode.PROJECT_DELETING,
    *_IDEMPOTENCY,
)
_CREATE_ERRORS = (ErrorCode.QUEUE_UNAVAILABLE, ErrorCode.NOT_FOUND, *_IDEMPOTENCY)
_READ = {"permission": Permission.DEPLOY_READ, "resource": DEPLOYMENT}


class _Filters(TypedDict):
    project_id: str | None
    statuses: list[DeploymentStatus]
    branch: str | None
    is_preview: bool | None
    is_active: bool | None


class DeploymentController(Controller):
    path = "/deployments"
    tags = ["Deployments"]  # noqa: RUF012 - Litestar reads it as it is
    request_max_body_size = SMALL_BODY_BYTES

    @get(
        "/",
        opt={
            "permission": Permission.DEPLOY_READ,
            "resource": "tenants",
            "errors": (ErrorCode.INVALID_CURSOR, ErrorCode.INVALID_SORT),
        },
        sync_to_thread=True,
    )
    def list_deployments(
        self,
        request: UserRequest,
        list_parameters: NamedDependency[ListParameters],
        services: NamedDependency[Services],
        project_id: Annotated[str | None, QueryParameter(name="projectId")] = None,
        status: FromQuery[str | None] = None,
        branch: FromQuery[str | None] = None,
        is_preview: Annotated[bool | None, QueryParameter(name="isPreview")] = None,
        is_active: Annotated[bool | None, QueryParameter(name="isActive")] = None,
    ) -> Success[list[DeploymentResource]]:
        """The deployments of all tenants that the caller belongs to; `status` may name several, with commas."""
        filters: _Filters = {
            "project_id": project_id,
            "statuses": _statuses(status),
            "branch": branch,
            "is_preview": is_preview,
            "is_active": is_active,
        }
        query = list_parameters.with_filters(filters, sortable={"createdAt": "created_at"}, default="-createdAt")
        return query.answer(services.deployments.list(request.state.tenant_ids, page=query.page, **filters))

    @post(
        "/",
        opt={"permission": Permission.DEPLOY_CREATE, "resource": "tenants", "errors": _CREATE_ERRORS},
        sync_to_thread=True,
    )
    def create_deployment(
        self,
        request: UserRequest,
        data: JSONBody[CreateDeploymentRequest],
        idempotent_call: NamedDependency[IdempotentCall],
        services: NamedDependency[Services],
    ) -> Response[Success[DeploymentResource]]:
        """Creates a deployment of a project and queues it."""
        tenant_id = authorize(services, request.user, Permission.DEPLOY_CREATE, PROJECT, data.project_id)
        return idempotent_call.run(
            lambda record: services.deployments.create(
                tenant_id,
                data,
                created_by=request.user.user_id,
                record=record,
            ),
            status=201,
            location=_location,
        )

    @get("/{deployment_id:str}", opt=_READ, sync_to_thread=True)
    def get_deployment(
        self, request: UserRequest, deployment_id: FromPath[str], services: NamedDependency[Services]
    ) -> Success[DeploymentResource]:
        """One deployment, with its stages, its error and its position in the queue."""
        return success(services.deployments.get(request.state.tenant_id, deployment_id))

    @delete(
        "/{deployment_id:str}",
        opt={
            "permission": Permission.PROJECT_DELETE,
            "resource": DEPLOYMENT,
            "errors": (ErrorCode.DEPLOYMENT_ACTIVE,),
        },
        sync_to_thread=True,
    )
    def delete_deployment(
        self, request: UserRequest, deployment_id: FromPath[str], services: NamedDependency[Services]
    ) -> None:
        """Removes a finished deployment and its site."""
        services.deployments.delete(request.state.tenant_id, deployment_id)

    @post(
        "/{deployment_id:str}/cancel",
        status_code=202,
        opt={
            "permission": Permission.DEPLOY_CANCEL,
            "resource": DEPLOYMENT,
            "errors": (ErrorCode.ALREADY_FINISHED,),
        },
        sync_to_thread=True,
    )
    def cancel_deployment(
        self, request: UserRequest, deployment_id: FromPath[str], services: NamedDependency[Services]
    ) -> Success[DeploymentResource]:
        """Requests the cancellation of a deployment. Repeating the request changes nothing."""
        return success(services.deployments.cancel(request.state.tenant_id, deployment_id))

    @post(
        "/{deployment_id:str}/rollback",
        status_code=202,
        opt={"permission": Permission.DEPLOY_ROLLBACK, "resource": DEPLOYMENT, "errors": _RELEASE_ERRORS},
        sync_to_thread=True,
    )
    def roll_back(
        self,
        request: UserRequest,
        deployment_id: FromPath[str],
        idempotent_call: NamedDependency[IdempotentCall],
        services: NamedDependency[Services],
    ) -> Response[Success[DeploymentResource]]:
        """Points production at this earlier deployment, and keeps it there."""
        tenant_id, user_id = request.state.tenant_id, request.user.user_id
        return idempotent_call.run(
            lambda record: services.releases.rollback(tenant_id, deployment_id, requested_by=user_id, record=record),
            status=202,
        )

    @post(
        "/{deployment_id:str}/promote",
        status_code=202,
        opt={"permission": Permission.DEPLOY_PROMOTE, "resource": DEPLOYMENT, "errors": _RELEASE_ERRORS},
        sync_to_thread=True,
    )
    def promote(
        self,
        request: UserRequest,
        deployment_id: FromPath[str],
        idempotent_call: NamedDependency[IdempotentCall],
        services: NamedDependency[Services],
    ) -> Response[Success[DeploymentResource]]:
        """Points production at this deployment; later ones may replace it."""
        tenant_id, user_id = request.state.tenant_id, request.user.user_id
        return idempotent_call.run(
            lambda record: services.releases.promote(tenant_id, deployment_id, requested_by=user_id, record=record),
            status=202,
        )

    @post(
        "/{deployment_id:str}/trigger",
        opt={"permission": Permission.DEPLOY_CREATE, "resource": DEPLOYMENT, "errors": _CREATE_ERRORS},
        sync_to_thread=True,
    )
    def trigger(
        self,
        request: UserRequest,
        deployment_id: FromPath[str],
        idempotent_call: NamedDependency[IdempotentCall],
        services: NamedDependency[Services],
    ) -> Response[Success[DeploymentResource]]:
        """Deploys the same commit again, as a new deployment."""
        tenant_id, user_id = request.state.tenant_id, request.user.user_id
        return idempotent_call.run(
            lambda record: services.deployments.redeploy(tenant_id, deployment_id, created_by=user_id, record=record),
            status=201,
            location=_location,
        )

    @get("/{deployment_id:str}/queue", opt=_READ, sync_to_thread=True)
    def explain_queue(
        self, request: UserRequest, deployment_id: FromPath[str], services: NamedDependency[Services]
    ) -> Success[QueuePosition | None]:
        """The reason for which the deployment waits, and for how long; null if it doesn't."""
        return success(services.deployments.explain(request.state.tenant_id, deployment_id))


def _location(deployment: DeploymentResource) -> str:
    return f"/api/deployments/{deployment.id}"


def _statuses(text: str | None) -> list[DeploymentStatus]:
    names = [name.lower() for name in comma_separated(text)]
    known = {status.value: status for status in DeploymentStatus}
    unknown = [name for name in names if name not in known]
    if unknown or (text is not None and not names):
        raise RequestRefused(
            f"There is no status {unknown[0][:50] if unknown else ''!r}; the statuses are {', '.join(known)}.",
            code=ErrorCode.INVALID_FILTER,
        )
    return [known[name] for name in names]
