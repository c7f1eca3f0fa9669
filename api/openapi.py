"""The API's own description: Litestar's schema, completed with each route's errors, and a page that shows it.

The page has no scripts, so that nothing is loaded from elsewhere.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict, cast

import msgspec
from litestar import Litestar, Response, Router, get
from litestar.enums import MediaType
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Components, Reference, SecurityScheme
from litestar.routes import HTTPRoute

from api.connections import PublicRequest
from api.errors import STATUS_OF
from api.guards import TICKET_PARAMETER
from api.middleware import API_VERSION
from api.resources import Resource
from api.session_cookie import REFRESH_COOKIE
from shared.errors import ErrorCode

DOCS_PATH = "/api/docs"

_EVERYWHERE = (ErrorCode.INVALID_FILTER, ErrorCode.MISDIRECTED_REQUEST, ErrorCode.INTERNAL, ErrorCode.UNAVAILABLE)
_SIGNED_IN = (
    ErrorCode.UNAUTHENTICATED,
    ErrorCode.TOKEN_EXPIRED,
    ErrorCode.SESSION_REVOKED,
    ErrorCode.FORBIDDEN,
)
_WITH_BODY = (
    ErrorCode.MALFORMED_JSON,
    ErrorCode.REQUEST_TIMEOUT,
    ErrorCode.PAYLOAD_TOO_LARGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.VALIDATION_ERROR,
)
_METHODS = ("get", "put", "post", "delete", "patch")

Schema = dict[str, object]
# The parts of the schema that are read or completed here.
_Parameter = TypedDict("_Parameter", {"name": str, "in": str, "required": bool, "description": str, "schema": Schema})
_Content = Mapping[str, Mapping[str, Mapping[str, str]]]


_Answer = TypedDict(
    "_Answer", {"description": str, "content": NotRequired[Schema], "x-error-codes": NotRequired[list[str]]}
)


class _Body(TypedDict):
    content: _Content


class _Operation(TypedDict):
    responses: dict[str, _Answer]
    security: NotRequired[list[dict[str, list[str]]]]
    parameters: NotRequired[list[_Parameter]]
    requestBody: NotRequired[_Body]
    tags: NotRequired[list[str]]
    summary: NotRequired[str]
    description: NotRequired[str]


_Paths = Mapping[str, Mapping[str, _Operation]]
_Components = Mapping[str, Mapping[str, Schema]]

_REFERENCE = "#/components/schemas/"
# As Litestar writes a union in a title, without unions in it.
_UNION = re.compile(r"(?:Union|UnionType|Optional)\[([^]]*)\]")

_SECURITY_SCHEMES: dict[str, SecurityScheme | Reference] = {
    "bearer": SecurityScheme(type="http", scheme="bearer"),
    "streamTicket": SecurityScheme(
        type="apiKey",
        name=TICKET_PARAMETER,
        security_scheme_in="query",
        description="Opens one stream, once, within 60 s. From POST /api/auth/stream-tickets.",
    ),
    "sessionCookie": SecurityScheme(
        type="apiKey",
        name=REFRESH_COOKIE,
        security_scheme_in="cookie",
        description="The cookie of a login. Streams accept it from pages of this site; otherwise it only refreshes.",
    ),
}
_TICKET: _Parameter = {
    "name": TICKET_PARAMETER,
    "in": "query",
    "required": False,
    "description": "For clients that can't set headers, instead of Authorization; see POST /api/auth/stream-tickets",
    "schema": {"type": "string"},
}


def openapi_config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Cloudify",
        version=API_VERSION,
        description=(
            "Every answer is `{ok, data, meta}` or `{ok, error}`. This is a preview: breaking changes may come, "
            "each with a new `API-Version`."
        ),
        use_handler_docstrings=True,
        security=[{"bearer": []}],
        components=Components(security_schemes=_SECURITY_SCHEMES),
        # Litestar's own pages would load scripts from elsewhere; `docs_router` replaces them.
        openapi_router=Router("/api/docs/litestar", route_handlers=[], include_in_schema=False, opt={"public": True}),
    )


@get("/", media_type=MediaType.HTML, sync_to_thread=False)
def docs_page(request: PublicRequest) -> Response[bytes]:
    page = _description(request.app).page
    policy = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'"
    return Response(
        page, media_type=MediaType.HTML, headers={"Content-Security-Policy": f"{policy}; upgrade-insecure-requests"}
    )


@get("/openapi.json", media_type=MediaType.JSON, sync_to_thread=False)
def docs_schema(request: PublicRequest) -> Response[bytes]:
    return Response(_description(request.app).schema, media_type=MediaType.JSON)


def docs_router() -> Router:
    return Router("/docs", route_handlers=[docs_page, docs_schema], include_in_schema=False, opt={"public": True})


class Description:
    """What an application says about itself. Made when first asked for: it takes as long as all routes together."""

    def __init__(self, application: Litestar) -> None:
        self._application = application

    @property
    def schema(self) -> bytes:
        return self._made[0]

    @property
    def page(self) -> bytes:
        return self._made[1]

    def query_parameters(self, path_template: str, method: str) -> frozenset[str] | None:
        """The names that a route takes, or None for a route that isn't described."""
        return self._made[2].get((path_template, method))

    @functools.cached_property
    def _made(self) -> tuple[bytes, bytes, dict[tuple[str, str], frozenset[str]]]:
        schema = self._application.openapi_schema.to_schema()
        schema["components"]["schemas"] = _name_components(schema)
        paths: _Paths = schema["paths"]
        operations = _operations(self._application)
        known: dict[tuple[str, str], frozenset[str]] = {}
        for path, item in paths.items():
            for method in _METHODS:
                if method in item:
                    template, opt = operations[path, method.upper()]
                    _complete(item[method], opt)
                    known[template, method.upper()] = frozenset(
                        parameter["name"]
                        for parameter in item[method].get("parameters", [])
                        if parameter["in"] == "query"
                    )
        schema["components"]["schemas"]["ErrorCode"] = {"type": "string", "enum": [code.value for code in ErrorCode]}
        schema["components"]["schemas"]["Failure"] = _FAILURE
        return msgspec.json.encode(schema), _page(paths, schema["info"]["description"]).encode(), known


def _description(application: Litestar) -> Description:
    description: Description = application.state.description
    return description


def _name_components(schema: Mapping[str, _Components]) -> dict[str, Schema]:
    """Names each component after its types and points the schema's references to it. Returns the components.

    Litestar's names of generic types contain modules, so that moving a module would rename the types of generated
    clients; its titles of components don't. Of two types with one name, the second keeps Litestar's.
    """
    named: dict[str, Schema] = {}
    references: dict[str, str] = {}
    for key, component in schema["components"]["schemas"].items():
        name = _component_name(str(component.get("title") or key))
        if name in named:
            name = key
        component["title"] = name
        named[name] = component
        references[_REFERENCE + key] = _REFERENCE + name
    _replace_references(schema, references)
    return dict(sorted(named.items()))


def _component_name(title: str) -> str:
    """`Success[list[Thing]]` → `SuccessListThing`, `Success[Thing | None]` → `SuccessThingOrNone`."""
    title = _UNION.sub(lambda union: union[1].replace(", ", "Or"), title).replace("NoneType", "None")
    return "".join(word[0].upper() + word[1:] for word in re.findall(r"\w+", title))


def _replace_references(node: object, references: Mapping[str, str]) -> None:
    if isinstance(node, list):
        for child in cast("list[object]", node):
            _replace_references(child, references)
    elif isinstance(node, dict):
        members = cast("dict[str, object]", node)
        reference = members.get("$ref")
        if isinstance(reference, str):
            members["$ref"] = references[reference]
        for child in members.values():
            _replace_references(child, references)


def _operations(application: Litestar) -> dict[tuple[str, str], tuple[str, Mapping[str, object]]]:
    """(path as the schema writes it, method) → (path template as the router writes it, opt)."""
    return {
        (route.path_format or "/", str(method)): (route.path_format or "/", handler.opt)
        for route in application.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods
    }


def _complete(operation: _Operation, opt: Mapping[str, object]) -> None:
    """Adds each error that the route can answer with, by status."""
    declared = cast("Sequence[ErrorCode]", opt.get("errors", ()))
    codes = [*_EVERYWHERE, *declared]
    if opt.get("public") is True:
        operation["security"] = []
    else:
        codes += _SIGNED_IN
    if opt.get("stream") is True:
        operation["security"] = [{"bearer": []}, {"streamTicket": []}, {"sessionCookie": []}]
        operation["parameters"] = [*operation.get("parameters", []), _TICKET.copy()]
        codes += (ErrorCode.CSRF_REJECTED, ErrorCode.STREAM_LIMIT)
    if isinstance(opt.get("resource"), Resource):
        codes.append(ErrorCode.NOT_FOUND)
    if "requestBody" in operation:
        codes += _WITH_BODY
    responses = {status: answer for status, answer in operation["responses"].items() if status < "400"}
    by_status: dict[str, list[str]] = {}
    for code in dict.fromkeys(codes):
        by_status.setdefault(str(STATUS_OF[code]), []).append(code.value)
    for status, names in sorted(by_status.items()):
        responses[status] = {
            "description": ", ".join(names),
            "x-error-codes": names,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}},
        }
    operation["responses"] = responses


_FAILURE: Schema = {
    "type": "object",
    "required": ["ok", "error"],
    "properties": {
        "ok": {"type": "boolean", "const": False},
        "error": {
            "type": "object",
            "required": ["code", "message", "requestId"],
            "properties": {
                "code": {"$ref": "#/components/schemas/ErrorCode"},
                "message": {"type": "string"},
                "details": {"type": "object"},
                "requestId": {"type": "string"},
            },
        },
    },
}

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "code,h3{font-family:ui-monospace,monospace}h3{font-size:1rem;margin:1.5rem 0 .2rem}"
    "p,ul{margin:.2rem 0}.errors{color:#777;font-size:.85rem}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()


def _page(paths: _Paths, description: str) -> str:
    sections: dict[str, list[str]] = {}
    for path, item in sorted(paths.items()):
        for method in _METHODS:
            if method in item:
                tag = (item[method].get("tags") or ["Other"])[0]
                sections.setdefault(tag, []).append(_operation_html(path, method, item[method]))
    body = "".join(f"<h2>{html.escape(tag)}</h2>{''.join(parts)}" for tag, parts in sorted(sections.items()))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Cloudify API</title><style>{_STYLE}</style>'
        f"<h1>Cloudify API</h1><p>Version {API_VERSION}. {html.escape(description)} "
        f'For tools: <a href="{DOCS_PATH}/openapi.json">openapi.json</a>.</p>{body}</html>'
    )


def _operation_html(path: str, method: str, operation: _Operation) -> str:
    text = operation.get("description") or operation.get("summary") or ""
    inputs = [f"{name['name']} ({name['in']})" for name in operation.get("parameters", [])]
    bodies = operation["requestBody"]["content"].values() if "requestBody" in operation else ()
    inputs += [f"body: {media.get('schema', {}).get('$ref', '').rpartition('/')[2]}" for media in bodies]
    listed = f"<p>Takes: <code>{html.escape(', '.join(inputs))}</code></p>" if inputs else ""
    errors = "; ".join(
        f"{status}: {answer['description']}" for status, answer in operation["responses"].items() if status >= "400"
    )
    good = ", ".join(status for status in operation["responses"] if status < "400")
    return (
        f"<h3>{method.upper()} {html.escape(path)}</h3><p>{html.escape(text)} Answers {good}.</p>{listed}"
        f'<p class="errors">{html.escape(errors)}</p>'
    )
