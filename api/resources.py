"""What the guard has to know of a resource that paths and bodies name by an identifier.

Routes declare it as `resource` in their `opt`. One that a single module of `api/routes/` uses is made there; those that
several use are here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from api.services import Services
from shared import identifiers
from shared.accounts.permissions import Permission


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of resource that belongs to a tenant.

    `name`: the word that errors use. `prefix`: of its identifiers.
    `path_parameter`: the part of a path that names one. `read`: a principal without this permission is told that
    the resource doesn't exist. `tenant_of`: identifier → tenant, None for one that doesn't exist; blocks.
    """

    name: str
    prefix: str
    path_parameter: str
    read: Permission
    tenant_of: Callable[[Services, str], str | None]


PROJECT = Resource(
    name="project",
    prefix=identifiers.PROJECT,
    path_parameter="project_id",
    read=Permission.PROJECT_READ,
    tenant_of=lambda services, identifier: services.projects.tenant_of(identifier),
)
DEPLOYMENT = Resource(
    name="deployment",
    prefix=identifiers.DEPLOYMENT,
    path_parameter="deployment_id",
    read=Permission.DEPLOY_READ,
    tenant_of=lambda services, identifier: services.deployments.tenant_of(identifier),
)
