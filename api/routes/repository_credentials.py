"""The credentials that clones of a project's repository use. The secret can't be read back."""

from __future__ import annotations

from litestar import Controller, delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from api.bodies import MEDIUM_BODY_BYTES
from api.connections import UserRequest
from api.resources import PROJECT
from api.responses import success
from api.services import Services
from schemas.envelope import Success
from schemas.projects import RepositoryCredentialsResource, SetRepositoryCredentialsRequest
from shared.accounts.permissions import Permission

_SETTINGS = {"permission": Permission.PROJECT_SETTINGS, "resource": PROJECT}


class RepositoryCredentialsController(Controller):
    path = "/projects/{project_id:str}/repository-credentials"
    tags = ["Projects"]  # noqa: RUF012 - Litestar reads it as it is
    request_max_body_size = MEDIUM_BODY_BYTES

    @get("/", opt=_SETTINGS, sync_to_thread=True)
    def get_credentials(
        self, request: UserRequest, project_id: FromPath[str], services: NamedDependency[Services]
    ) -> Success[RepositoryCredentialsResource]:
        """The kind of credentials and their host, without the secret."""
        return success(services.repository_credentials.get(request.state.tenant_id, project_id))

    @put("/", opt=_SETTINGS, sync_to_thread=True)
    def set_credentials(
        self,
        request: UserRequest,
        project_id: FromPath[str],
        data: JSONBody[SetRepositoryCredentialsRequest],
        services: NamedDependency[Services],
    ) -> Success[RepositoryCredentialsResource]:
        """Creates or replaces the credentials for the host of the project's repositoryUrl; forgets its SSH host key."""
        return success(services.repository_credentials.set(request.state.tenant_id, project_id, data))

    @delete("/", opt=_SETTINGS, sync_to_thread=True)
    def delete_credentials(
        self, request: UserRequest, project_id: FromPath[str], services: NamedDependency[Services]
    ) -> None:
        """Deletes the credentials, and forgets the SSH host key that was seen."""
        services.repository_credentials.delete(request.state.tenant_id, project_id)
