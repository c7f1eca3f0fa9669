"""The one guard: principal → role in the resource's tenant → permission. Denies routes that declare nothing.

Every route handler declares exactly one of these in `opt`:
- `public: True`;
- `self: True`: any signed-in user, own data. A token with scopes is refused unless `scoped: True` is declared too;
- `permission: Permission.X` with `resource`: a Resource of api.resources (the path names it by its parameter;
  `request.state.tenant_id` is set), `tenants` (lists and creations; `request.state.tenant_ids` is set) or `platform`
  (platform administrators).

A handler that also declares `stream: True` takes a ticket or the session's cookie where there is no header. `threads`
names the lane (api.edge.lanes) that its function runs in; without it that is `requests`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import cast

from litestar import Litestar
from litestar.concurrency import sync_to_thread
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import HTTPScope

from api.authentication import Principal
from api.connections import Connection
from api.edge.lanes import Lanes, enter
from api.errors import RequestRefused
from api.resources import DEPLOYMENT, Resource
from api.services import Services
from api.session_cookie import REFRESH_COOKIE, read_cookie, refuse_foreign_site
from shared.accounts.permissions import Permission, Role, permissions_of
from shared.errors import CloudifyError, ErrorCode, Forbidden, NotFound
from shared.identifiers import is_identifier

# The query parameter of the stream routes that takes a ticket.
TICKET_PARAMETER = "ticket"

# What `resource` in a route's `opt` may be, besides a Resource.
_SCOPES = frozenset({"tenants", "platform"})
_UNUSABLE = re.compile("[\x00\ud800-\udfff]")
_PLATFORM_PERMISSIONS = frozenset({Permission.ADMIN_READ, Permission.ADMIN_WRITE})


class UndeclaredRoutes(Exception):
    """Routes don't declare who may use them; the application refuses to start."""


async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
    """Raises Unauthenticated, Forbidden, NotFound; RequestRefused for query parameters that the route doesn't have."""
    if connection.scope.get("method") == "OPTIONS":
        return
    _check_text(connection)
    lanes: Lanes = connection.app.state.lanes
    caller = connection.app.state.callers.before_authentication(connection)
    lane = lanes.named(handler.opt.get("threads", "requests"))
    is_public = handler.opt.get("public") is True
    if is_public and not (handler.opt.get("details") and _has_credential(connection)):
        # Without a thread, so that /health/live answers while every thread waits for the database.
        connection.scope["user"] = None
    else:
        # Health reports on requests, so it doesn't wait behind them.
        enter(lane if is_public else lanes.requests, caller)
        await sync_to_thread(_admit, connection, handler.opt)
        if connection.user is not None:
            caller = connection.app.state.callers.authenticated(connection, connection.user.user_id)
    enter(lane, caller)
    _check_query(connection)


def authorize(
    services: Services, principal: Principal, permission: Permission, resource: Resource, identifier: str
) -> str:
    """The resource's tenant, if the principal has the permission there. Routes call it for resources in bodies.

    Raises NotFound if the principal can't read the resource, Forbidden if it can read it but lacks the permission.
    Blocks: call it from a thread.
    """
    tenant_id = None
    if is_identifier(identifier, resource.prefix):
        tenant_id = resource.tenant_of(services, identifier)
    role = None if tenant_id is None else services.tenants.find_role(tenant_id, principal.user_id)
    if tenant_id is None or role is None:
        raise NotFound(f"There is no such {resource.name}.")
    if not _may(principal, role, permission):
        if not _may(principal, role, resource.read):
            raise NotFound(f"There is no such {resource.name}.")
        raise _forbidden(permission, principal, role)
    return tenant_id


def authorize_anywhere(services: Services, principal: Principal, permission: Permission) -> list[str]:
    """The tenants where the principal has the permission, the personal one first.

    Raises Forbidden if there are none. Blocks: call it from a thread.
    """
    memberships = services.tenants.memberships_of(principal.user_id)
    tenant_ids = [member.tenant_id for member in memberships if _may(principal, member.role, permission)]
    if not tenant_ids:
        raise _forbidden(permission, principal, memberships[0].role if memberships else None)
    return tenant_ids


def check_declarations(application: Litestar) -> None:
    """Raises UndeclaredRoutes. Run when the application is made."""
    undeclared = [
        f"{'/'.join(sorted(handler.http_methods))} {route.path}"
        for route in application.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.http_methods != {"OPTIONS"} and not _is_declared(handler.opt)
    ]
    if undeclared:
        raise UndeclaredRoutes("These routes don't declare who may use them: " + ", ".join(sorted(undeclared)))


def _is_declared(opt: Mapping[str, object]) -> bool:
    kinds = [opt.get("public") is True, opt.get("self") is True, isinstance(opt.get("permission"), Permission)]
    resource = opt.get("resource")
    return sum(kinds) == 1 and ("permission" not in opt or isinstance(resource, Resource) or resource in _SCOPES)


def _admit(connection: Connection, opt: Mapping[str, object]) -> None:
    services: Services = connection.app.state.services
    authorization = connection.headers.get("authorization")
    if opt.get("public") is True:
        connection.scope["user"] = _find_principal(services, authorization)
        return
    if not _is_declared(opt):
        raise Forbidden("Nobody may use this address.")
    principal = _authenticate(services, connection, opt)
    connection.scope["user"] = principal
    if opt.get("self") is True:
        if principal.scopes and not opt.get("scoped"):
            raise Forbidden("A token with scopes can't do this; sign in, or use a token with all rights.")
        return
    permission, resource = opt["permission"], opt["resource"]
    assert isinstance(permission, Permission)
    match resource:
        case "platform":
            _admit_to_platform(principal, permission)
        case "tenants":
            connection.state.tenant_ids = authorize_anywhere(services, principal, permission)
        case _:
            assert isinstance(resource, Resource)
            identifier = connection.path_params[resource.path_parameter]
            connection.state.tenant_id = authorize(services, principal, permission, resource, identifier)


def _authenticate(services: Services, connection: Connection, opt: Mapping[str, object]) -> Principal:
    """The header precedes a ticket, and a ticket the cookie: only the first credential found is tried."""
    authorization = connection.headers.get("authorization")
    if opt.get("stream") is True and authorization is None:
        ticket = connection.query_params.get(TICKET_PARAMETER)
        if ticket is not None:
            deployment_id = connection.path_params.get(DEPLOYMENT.path_parameter)
            return services.authenticator.by_ticket(ticket, deployment_id=deployment_id)
        cookie = read_cookie(connection.headers, REFRESH_COOKIE)
        if cookie:
            refuse_foreign_site(connection.headers)
            return services.authenticator.by_session_cookie(cookie)
    return services.authenticator.authenticate(authorization)


def _has_credential(connection: Connection) -> bool:
    return "authorization" in connection.headers


def _find_principal(services: Services, authorization: str | None) -> Principal | None:
    """For public routes that show administrators more: an invalid credential shows less and isn't an error."""
    try:
        return services.authenticator.authenticate(authorization) if authorization else None
    except CloudifyError:
        return None


def is_administrator(principal: Principal | None, permission: Permission) -> bool:
    return principal is not None and principal.is_platform_administrator and principal.has_scope(permission)


def _admit_to_platform(principal: Principal, permission: Permission) -> None:
    if permission not in _PLATFORM_PERMISSIONS or not is_administrator(principal, permission):
        raise Forbidden("Only administrators of the platform can do this.", details={"permission": permission.value})


def _may(principal: Principal, role: Role, permission: Permission) -> bool:
    return permission in permissions_of(role) and principal.has_scope(permission)


def _forbidden(permission: Permission, principal: Principal, role: Role | None) -> Forbidden:
    details = {"permission": permission.value, "role": None if role is None else role.value}
    if not principal.has_scope(permission):
        return Forbidden(f"The token lacks the scope {permission}; use one that has it.", details=details)
    return Forbidden(f"This needs {permission}, which your role doesn't have; ask an owner.", details=details)


def _check_text(connection: Connection) -> None:
    """Refuses NUL and lone surrogates, which the database doesn't accept."""
    if any(_is_unusable(str(value)) for value in connection.path_params.values()):
        raise NotFound("There is nothing at this address; see /api/docs.")
    for name, value in connection.query_params.multi_items():
        if _is_unusable(name) or _is_unusable(str(value)):
            raise RequestRefused("The query holds a NUL character; remove it.", code=ErrorCode.INVALID_FILTER)


def _is_unusable(text: str) -> bool:
    return _UNUSABLE.search(text) is not None


def _check_query(connection: Connection) -> None:
    """Refuses parameters that the route's documentation doesn't list: mistakes would silently change the answer."""
    if not connection.query_params:
        return
    scope = cast(HTTPScope, connection.scope)
    known: frozenset[str] | None = connection.app.state.query_parameters(scope["path_template"], scope["method"])
    if known is None:
        return
    given = Counter(name[:50] for name, _ in connection.query_params.multi_items())
    unknown = sorted(set(given) - known)
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise RequestRefused(
            f"There is no query parameter {unknown[0]!r} here; there are: {names}.", code=ErrorCode.INVALID_FILTER
        )
    repeated = sorted(name for name, count in given.items() if count > 1)
    if repeated:
        raise RequestRefused(f"The query gives {repeated[0]!r} twice; give it once.", code=ErrorCode.INVALID_FILTER)
