"""Projects."""

from __future__ import annotations

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody

from api.bodies import MEDIUM_BODY_BYTES
from api.connections import UserRequest
from api.guards import is_administrator
from api.idempotency import IdempotentCall
from api.pagination import ListParameters, comma_separated
from api.resources import PROJECT
from api.responses import success
from api.services import Services
from schemas.envelope import Success
from schemas.projects import CreateProjectRequest, ProjectResource, UpdateProjectRequest
from shared.accounts.permissions import Permission
from shared.errors import ErrorCode

_SORTABLE = {"createdAt": "created_at", "name": "name"}
_LIST_ERRORS = (ErrorCode.INVALID_CURSOR, ErrorCode.INVALID_SORT)
_CREATE_ERRORS = (
    ErrorCode.SLUG_TAKEN,
    ErrorCode.PLAN_LIMIT,
    ErrorCode.URL_FORBIDDEN,
    ErrorCode.IDEMPOTENCY_IN_PROGRESS,
    ErrorCode.IDEMPOTENCY_MISMATCH,
)


class ProjectController(Controller):
    path = "/projects"
    tags = ["Projects"]  # noqa: RUF012 - Litestar reads it as it is
    request_max_body_size = MEDIUM_BODY_BYTES

    @get(
        "/",
        opt={"permission": Permission.PROJECT_READ, "resource": "tenants", "errors": _LIST_ERRORS},
        sync_to_thread=True,
    )
    def list_projects(
        self,
        request: UserRequest,
        list_parameters: NamedDependency[ListParameters],
        services: NamedDependency[Services],
        framework: FromQuery[str | None] = None,
    ) -> Success[list[ProjectResource]]:
        """The projects of all tenants that the caller belongs to."""
        frameworks = comma_separated(framework)
        query = list_parameters.with_filters({"framework": frameworks}, sortable=_SORTABLE, default="-createdAt")
        page = services.projects.list(request.state.tenant_ids, page=query.page, framework=frameworks)
        return query.answer(page)

    @post(
        "/",
        opt={"permission": Permission.PROJECT_WRITE, "resource": "tenants", "errors": _CREATE_ERRORS},
        sync_to_thread=True,
    )
    def create_project(
        self,
        request: UserRequest,
        data: JSONBody[CreateProjectRequest],
        idempotent_call: NamedDependency[IdempotentCall],
        services: NamedDependency[Services],
    ) -> Response[Success[ProjectResource]]:
        """Creates a project in the caller's own tenant."""
        tenant_id, set_by = request.state.tenant_ids[0], _administrator(request)
        return idempotent_call.run(
            lambda record: services.projects.create(tenant_id, data, set_by=set_by, record=record),
            status=201,
            location=lambda project: f"/api/projects/{project.id}",
        )

    @get(
        "/by-slug/{slug:str}",
        opt={"permission": Permission.PROJECT_READ, "resource": "tenants", "errors": (ErrorCode.NOT_FOUND,)},
        sync_to_thread=True,
    )
    def get_project_by_slug(
        self, request: UserRequest, slug: FromPath[str], services: NamedDependency[Services]
    ) -> Success[ProjectResource]:
        """One project by its slug."""
        return success(services.projects.get_by_slug(request.state.tenant_ids, slug))

    @get("/{project_id:str}", opt={"permission": Permission.PROJECT_READ, "resource": PROJECT}, sync_to_thread=True)
    def get_project(
        self, request: UserRequest, project_id: FromPath[str], services: NamedDependency[Services]
    ) -> Success[ProjectResource]:
        """One project."""
        return success(services.projects.get(request.state.tenant_id, project_id))

    @patch(
        "/{project_id:str}",
        opt={
            "permission": Permission.PROJECT_SETTINGS,
            "resource": PROJECT,
            "errors": (ErrorCode.URL_FORBIDDEN,),
        },
        sync_to_thread=True,
    )
    def update_project(
        self,
        request: UserRequest,
        project_id: FromPath[str],
        data: JSONBody[UpdateProjectRequest],
        services: NamedDependency[Services],
    ) -> Success[ProjectResource]:
        """Changes the fields in the body, for later deployments."""
        set_by = _administrator(request)
        return success(services.projects.update(request.state.tenant_id, project_id, data, set_by=set_by))

    @delete(
        "/{project_id:str}",
        status_code=202,
        opt={"permission": Permission.PROJECT_DELETE, "resource": PROJECT},
        sync_to_thread=True,
    )
    def delete_project(
        self, request: UserRequest, project_id: FromPath[str], services: NamedDependency[Services]
    ) -> Success[None]:
        """Hides the project at once; a job removes its deployments and sites."""
        services.projects.delete(request.state.tenant_id, project_id)
        return success(None)


def _administrator(request: UserRequest) -> str | None:
    """The caller, if the request's credential has the rights of a platform administrator."""
    return request.user.user_id if is_administrator(request.user, Permission.ADMIN_WRITE) else None
