"""Environment variables of a project. Values for builds can't be read back."""

from __future__ import annotations

from litestar import Controller, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from api.bodies import VALUE_BODY_BYTES
from api.connections import UserRequest
from api.resources import PROJECT
from api.responses import success
from api.services import Services
from schemas.envelope import Success
from schemas.projects import DevelopmentEnvironmentResource, EnvironmentVariableResource, SetVariableRequest
from shared.accounts.permissions import Permission
from shared.errors import ErrorCode

_SETTINGS = {"permission": Permission.PROJECT_SETTINGS, "resource": PROJECT}


class VariableController(Controller):
    path = "/projects/{project_id:str}/env"
    tags = ["Environment variables"]  # noqa: RUF012 - Litestar reads it as it is
    request_max_body_size = VALUE_BODY_BYTES

    @get("/", opt=_SETTINGS, sync_to_thread=True)
    def list_variables(
        self, request: UserRequest, project_id: FromPath[str], services: NamedDependency[Services]
    ) -> Success[list[EnvironmentVariableResource]]:
        """The variables by key, without their values."""
        return success(services.variables.list(request.state.tenant_id, project_id))

    @get("/for-development", opt=_SETTINGS, sync_to_thread=True)
    def development_variables(
        self, request: UserRequest, project_id: FromPath[str], services: NamedDependency[Services]
    ) -> Success[DevelopmentEnvironmentResource]:
        """The values of variables that are for development only, for a developer's machine."""
        # No variable can have the path's name: keys hold no hyphen.
        return success(services.variables.development(request.state.tenant_id, project_id))

    @put("/{key:str}", opt=_SETTINGS | {"errors": (ErrorCode.CONFLICT,)}, sync_to_thread=True)
    def set_variable(
        self,
        request: UserRequest,
        project_id: FromPath[str],
        key: FromPath[str],
        data: JSONBody[SetVariableRequest],
        services: NamedDependency[Services],
    ) -> Success[EnvironmentVariableResource]:
        """Creates or replaces a variable, for later deployments."""
        return success(services.variables.set(request.state.tenant_id, project_id, key, data))

    @delete("/{key:str}", opt=_SETTINGS, sync_to_thread=True)
    def delete_variable(
        self,
        request: UserRequest,
        project_id: FromPath[str],
        key: FromPath[str],
        services: NamedDependency[Services],
    ) -> None:
        """Deletes a variable."""
        services.variables.delete(request.state.tenant_id, project_id, key)
