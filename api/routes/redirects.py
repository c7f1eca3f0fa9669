"""Redirects old paths to the new ones, keeping method and body."""

from __future__ import annotations

from urllib.parse import quote

from litestar import Response, route
from litestar.enums import HttpMethod
from litestar.params import FromPath

from api.connections import PublicRequest

# RFC 9745 and RFC 8594: deprecated since the API's version, gone a year later.
_DEPRECATED_SINCE = "@1770854400"
_SUNSET = "Fri, 12 Feb 2027 00:00:00 GMT"
_METHODS = [HttpMethod.GET, HttpMethod.POST, HttpMethod.PUT, HttpMethod.PATCH, HttpMethod.DELETE]


@route("/deploy", http_method=_METHODS, opt={"public": True}, include_in_schema=False, sync_to_thread=False)
def redirect_deploy(request: PublicRequest) -> Response[bytes]:
    return _redirect(request, "/api/deployments")


@route("/deploy/{rest:path}", http_method=_METHODS, opt={"public": True}, include_in_schema=False, sync_to_thread=False)
def redirect_deploy_path(request: PublicRequest, rest: FromPath[str]) -> Response[bytes]:
    parts = [part for part in str(rest).split("/") if part]
    if len(parts) == 2 and parts[1] == "stream":
        parts[1:] = ["logs", "stream"]
    return _redirect(request, "/api/deployments/" + "/".join(parts))


@route(
    "/deployments/{deployment_id:str}/stream",
    http_method=[HttpMethod.GET],
    opt={"public": True},
    include_in_schema=False,
    sync_to_thread=False,
)
def redirect_stream(request: PublicRequest, deployment_id: FromPath[str]) -> Response[bytes]:
    return _redirect(request, f"/api/deployments/{deployment_id}/logs/stream")


def _redirect(request: PublicRequest, path: str) -> Response[bytes]:
    target = quote(path, safe="/-._~")
    query = request.scope["query_string"].decode("latin-1")
    return Response(
        b"",
        media_type="text/plain",
        status_code=308,
        headers={
            "Location": f"{target}?{query}" if query else target,
            "Deprecation": _DEPRECATED_SINCE,
            "Sunset": _SUNSET,
            "Link": f'<{target}>; rel="successor-version"',
        },
    )
