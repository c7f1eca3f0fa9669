"""Health: `live` does no I/O, `ready` asks the dependencies, `startup` waits for the migrations."""

from __future__ import annotations

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency

from api.connections import PublicRequest
from api.guards import is_administrator
from api.responses import success
from api.services import Services
from schemas.envelope import Success
from schemas.health import DependencyHealth, HealthResource
from shared.accounts.permissions import Permission
from shared.errors import ErrorCode, Unavailable

_ERRORS = (ErrorCode.UNAVAILABLE,)
# On threads of their own.
_PUBLIC = {"public": True, "errors": _ERRORS, "threads": "health"}


class HealthController(Controller):
    path = "/health"
    tags = ["Health"]  # noqa: RUF012 - Litestar reads it as it is

    # One handler at two addresses would be wrapped twice by Litestar, which then documents its own wrapper.
    @get("/", opt={**_PUBLIC, "details": True}, sync_to_thread=True)
    def health(self, request: PublicRequest, services: NamedDependency[Services]) -> Success[HealthResource]:
        """Whether all dependencies of requests answer. Administrators of the platform see the details."""
        return _report(request, services)

    @get("/ready", opt={**_PUBLIC, "details": True}, sync_to_thread=True)
    def ready(self, request: PublicRequest, services: NamedDependency[Services]) -> Success[HealthResource]:
        """The same, for orchestrators: whether to route requests here."""
        return _report(request, services)

    @get("/live", opt={"public": True}, sync_to_thread=False)
    def live(self) -> Success[HealthResource]:
        """Whether this process answers."""
        return success(HealthResource(status="ok"))

    @get("/startup", opt=_PUBLIC, sync_to_thread=True)
    def startup(self, services: NamedDependency[Services]) -> Success[HealthResource]:
        """Whether the database has every migration of this version."""
        if not services.health.has_started():
            raise Unavailable("The database is not migrated yet; run the migrations.", retry_after_seconds=2)
        return success(HealthResource(status="ok"))


def _report(request: PublicRequest, services: Services) -> Success[HealthResource]:
    results = services.health.results()
    details = None
    if is_administrator(request.user, Permission.ADMIN_READ):
        details = [
            DependencyHealth(
                name=result.name,
                status="unavailable" if result.problem else "ok",
                milliseconds=result.milliseconds,
                problem=result.problem,
            )
            for result in results
        ]
    if any(result.problem for result in results):
        shown = None if details is None else {"dependencies": msgspec.to_builtins(details)}
        raise Unavailable("Some dependencies don't answer; try again in a few seconds.", details=shown)
    return success(HealthResource(status="ok", dependencies=details))
