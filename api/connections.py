"""The types of connections and requests that guards and handlers get."""

from __future__ import annotations

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler

from api.authentication import Principal

Connection = ASGIConnection[BaseRouteHandler, Principal | None, object, State]
# Of a route that anybody may use: a user only if the route asks for a credential (`details`).
PublicRequest = Request[Principal | None, object, State]
# Of any other route: the guard has authenticated the user.
UserRequest = Request[Principal, object, State]
