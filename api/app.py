"""The application: routes, guard, errors and documentation around the services."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from importlib import import_module

from litestar import Controller, Litestar, Router
from litestar.datastructures import MutableScopeHeaders, State
from litestar.di import Provide
from litestar.routes import HTTPRoute
from litestar.types import ControllerRouterHandler, Message, Scope

from api import routes as route_modules
from api.bodies import MAXIMUM_BODY_BYTES, JsonRequest
from api.edge.body_budget import BodyBudget
from api.edge.callers import Callers
from api.edge.lanes import Lanes
from api.edge.request_body import BodyPace
from api.errors import handle_error
from api.guards import check_declarations, guard
from api.idempotency import provide_idempotent_call
from api.middleware import Application
from api.openapi import Description, docs_router, openapi_config
from api.pagination import provide_list_parameters
from api.responses import EnvelopeResponse
from api.routes.redirects import redirect_deploy, redirect_deploy_path, redirect_stream
from api.services import Services
from shared.hosts import Hosts
from shared.network.client_addresses import TrustedProxies

Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]


def create_app(
    services: Services,
    *,
    routes: Sequence[ControllerRouterHandler] = (),
    lifespan: Sequence[Lifespan] = (),
    body_pace: BodyPace | None = None,
) -> Litestar:
    """Raises UndeclaredRoutes for a route that doesn't say who may use it. `routes` are added under /api."""
    lanes = Lanes()
    application = Application(
        route_handlers=[_api_router(routes)],
        guards=[guard],
        dependencies=_service_dependencies(services),
        exception_handlers={Exception: handle_error},
        request_class=JsonRequest,
        response_class=EnvelopeResponse,
        request_max_body_size=MAXIMUM_BODY_BYTES,
        openapi_config=openapi_config(),
        state=_state(services, lanes, body_pace or BodyPace()),
        lifespan=[lanes.running, *lifespan, services.stream_leases.running],
        before_send=[_allow_all_methods],
        logging_config=None,
        debug=False,
    )
    check_declarations(application)
    application.state.methods = _methods_by_address(application)
    application.state.description = description = Description(application)
    application.state.query_parameters = description.query_parameters
    return application


def _api_router(routes: Sequence[ControllerRouterHandler]) -> Router:
    return Router(
        "/api",
        route_handlers=[
            *controllers(),
            *routes,
            redirect_deploy,
            redirect_deploy_path,
            redirect_stream,
            docs_router(),
        ],
        dependencies={
            "list_parameters": Provide(provide_list_parameters, sync_to_thread=False),
            "idempotent_call": Provide(provide_idempotent_call),
        },
    )


def controllers() -> list[type[Controller]]:
    """The controllers of the modules in `api/routes/`, in the order of the modules' names."""
    names = [found.name for found in pkgutil.iter_modules(route_modules.__path__)]
    modules = [import_module(f"{route_modules.__name__}.{name}") for name in names]
    return [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Controller) and value.__module__ == module.__name__
    ]


def _state(services: Services, lanes: Lanes, body_pace: BodyPace) -> State:
    """The state that the middleware, the guard and the request class read; `create_app` adds what needs the routes."""
    return State(
        {
            "services": services,
            "lanes": lanes,
            "callers": Callers(services.device_cookies),
            "hosts": Hosts(services.settings.api.hosts),
            "trusted_proxies": TrustedProxies(services.settings.api.trusted_proxies),
            "body_pace": body_pace,
            "body_budget": BodyBudget(),
        }
    )


def _methods_by_address(application: Litestar) -> dict[str, str]:
    """Path template → its `Allow` header."""
    methods: dict[str, set[str]] = {}
    for route in application.routes:
        if isinstance(route, HTTPRoute):
            methods.setdefault(route.path_format or "/", set()).update(
                str(method) for handler in route.route_handlers for method in handler.http_methods
            )
    return {path: ", ".join(sorted(found | ({"HEAD"} if "GET" in found else set()))) for path, found in methods.items()}


async def _allow_all_methods(message: Message, scope: Scope) -> None:
    """Litestar's answer to OPTIONS names only the first method of an address."""
    if message["type"] == "http.response.start" and scope.get("method") == "OPTIONS" and message["status"] == 204:
        allowed = scope["litestar_app"].state.methods.get(scope["path_template"])
        if allowed is not None:
            MutableScopeHeaders.from_message(message)["Allow"] = allowed


def _service_dependencies(services: Services) -> dict[str, Provide]:
    """Each collaborator under its name, and all of them as `services`."""
    provided = {
        "services": services,
        "log_store": services.log_store,
        "log_hub": services.log_hub,
        "account_hub": services.account_hub,
        "stream_leases": services.stream_leases,
    }
    return {name: Provide(_constant(value), sync_to_thread=False) for name, value in provided.items()}


def _constant(value: object) -> Callable[[], object]:
    return lambda: value
