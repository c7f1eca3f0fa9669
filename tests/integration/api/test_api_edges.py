"""What holds for every route: the envelope, the headers, the permissions, hostile bodies."""

from __future__ import annotations

import ast
import inspect
import json
import pkgutil
import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar import get
from litestar.routes import HTTPRoute

import schemas
from api.app import create_app
from api.guards import UndeclaredRoutes
from api.resources import Resource
from shared.accounts.permissions import Permission, Role, permissions_of
from shared.identifiers import new_identifier
from tests.support.api_platform import Account
from tests.support.log_rows import eventually

HEADERS = {
    "api-version": "2026-02-12",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def assert_edge(response: Any) -> None:
    for name, value in HEADERS.items():
        assert response.headers.get_list(name) == [value]
    assert "upgrade-insecure-requests" in response.headers["content-security-policy"]
    assert "max-age" in response.headers["strict-transport-security"]
    assert response.headers["x-request-id"]


def declared_routes(app: Any) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, route.path_format, handler.opt)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in sorted(handler.http_methods)
        if method != "OPTIONS"
    ]


def resources_of(routes: list[tuple[str, str, dict[str, Any]]]) -> set[Resource]:
    return {opt["resource"] for _, _, opt in routes if isinstance(opt.get("resource"), Resource)}


def make_deployment(account: Account) -> str:
    [project] = account.request("GET", "/api/projects").json()["data"]
    return account.request("POST", "/api/deployments", json={"projectId": project["id"]}).json()["data"]["id"]


# Path parameter → makes a resource of the account and returns its identifier; later ones find the earlier ones.
MAKERS: dict[str, Callable[[Account], str]] = {
    "project_id": lambda account: account.project()["id"],
    "deployment_id": make_deployment,
}


def filled(path: str, identifiers: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda parameter: identifiers.get(parameter[1], "x"), path)


def unknown_identifiers(resources: set[Resource]) -> dict[str, str]:
    return {resource.path_parameter: new_identifier(resource.prefix) for resource in resources}


def test_every_resource_is_tried_and_told_apart(platform) -> None:
    """The tests of permissions need one of each: a new resource has its maker in MAKERS."""
    resources = resources_of(declared_routes(platform.app))
    assert {resource.path_parameter for resource in resources} == set(MAKERS)
    for distinct in ("name", "prefix", "path_parameter"):
        assert len({getattr(resource, distinct) for resource in resources}) == len(resources), distinct


def test_every_route_refuses_callers_without_credentials(platform) -> None:
    routes = declared_routes(platform.app)
    identifiers = unknown_identifiers(resources_of(routes))
    assert len(routes) > 30
    for method, path, opt in routes:
        target = filled(path, identifiers)
        response = platform.client.request(method, target, follow_redirects=False)
        assert_edge(response)
        if opt.get("public"):
            assert response.status_code < 500, target
        else:
            assert (response.status_code, response.json()["error"]["code"]) == (401, "UNAUTHENTICATED"), target


@pytest.mark.parametrize("role", [*Role, None])
def test_every_route_follows_the_table_of_permissions(account, register, role: Role | None) -> None:
    identifiers = {parameter: make(account) for parameter, make in MAKERS.items()}
    member = register("member@example.com")
    if role is not None:
        member.join(account, role)
    checked = 0
    routes = declared_routes(account.platform.app)
    # Deletions last, so that the others find what they ask for.
    for method, path, opt in sorted(routes, key=lambda route: (route[0] == "DELETE", route[1].count("/") < 4)):
        resource = opt.get("resource")
        if not isinstance(resource, Resource) or path.endswith("/stream"):
            continue
        response = member.request(method, filled(path, identifiers))
        allowed = role is not None and opt["permission"] in permissions_of(role)
        checked += 1
        if role is None:
            assert response.status_code == 404, (method, path)
        elif allowed:
            assert response.status_code not in (401, 403), (method, path, response.text)
        else:
            assert response.status_code == 403, (method, path)
            assert response.json()["error"]["details"] == {"permission": opt["permission"], "role": role}
    assert checked >= 14
    other = register("other@example.com")
    body_named = member.request("POST", "/api/deployments", json={"projectId": other.project("other")["id"]})
    assert body_named.status_code == 404


def test_a_route_that_declares_nothing_stops_the_start(platform) -> None:
    @get("/forgotten", sync_to_thread=False)
    def forgotten() -> None:
        """Declares nothing."""

    @get("/both", opt={"public": True, "permission": Permission.PROJECT_READ}, sync_to_thread=False)
    def both() -> None:
        """Declares too much."""

    for handler in (forgotten, both):
        with pytest.raises(UndeclaredRoutes, match=handler.fn.__name__):
            create_app(platform.services, routes=[handler])


def test_an_unforeseen_error_is_reported_without_its_text(platform) -> None:
    @get("/broken", opt={"public": True}, sync_to_thread=False)
    def broken() -> None:
        raise RuntimeError("the secret of the house")

    from litestar.testing import TestClient

    with TestClient(
        create_app(platform.services, routes=[broken]), base_url="http://127.0.0.1", raise_server_exceptions=False
    ) as client:
        response = client.get("/api/broken", headers={"X-Request-Id": "my-id_1"})
    assert response.status_code == 500
    assert_edge(response)
    assert response.json()["error"]["code"] == "INTERNAL"
    assert response.json()["error"]["requestId"] == "my-id_1"
    assert "secret" not in response.text


def test_unknown_addresses_and_methods_answer_in_the_envelope(platform) -> None:
    for path in (
        "/",
        "/api",
        "/api/nothing",
        "/other",
        "/api/projects/%00",
        "/api/auth/tokens/%00/x",
        "/api//projects/",
    ):
        response = platform.client.get(path)
        assert_edge(response)
        assert response.status_code in (401, 404), path
        assert response.json()["ok"] is False
    response = platform.client.put("/api/projects")
    assert_edge(response)
    assert (response.status_code, response.json()["error"]["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert response.headers["allow"] == "GET, HEAD, OPTIONS, POST"


def test_a_strange_request_id_is_replaced(platform) -> None:
    for request_id in ("a" * 65, "a b", "<script>", "é", ""):
        response = platform.client.get("/api/health/live", headers={"X-Request-Id": request_id.encode()})
        assert response.headers["x-request-id"].startswith("req_")
    assert platform.client.get("/x", headers={"X-Request-Id": "a-1_B"}).json()["error"]["requestId"] == "a-1_B"


def test_answers_carry_their_duration(account) -> None:
    for response in (account.request("GET", "/api/projects"), account.request("GET", "/api/auth/me")):
        assert response.json()["ok"] is True
        assert response.json()["meta"]["timing"]["durationMs"] > 0


def test_head_works_where_get_does(account) -> None:
    project_id = account.project()["id"]
    for path in (f"/api/projects/{project_id}", "/api/projects", "/api/health/live", "/api/docs"):
        head, full = account.request("HEAD", path), account.request("GET", path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == full.headers["content-type"]
    assert account.request("HEAD", "/api/nothing").status_code == 404
    made = account.request("POST", "/api/deployments", json={"projectId": project_id}).json()["data"]
    stream = account.request("HEAD", f"/api/deployments/{made['id']}/logs/stream")
    assert (stream.status_code, stream.content) == (200, b"")


HOSTILE = [
    (b"", 422, "VALIDATION_ERROR"),
    (b"{", 400, "MALFORMED_JSON"),
    (b"\xff", 400, "MALFORMED_JSON"),
    (b'{"name":"\xed\xa0\x80"}', 400, "MALFORMED_JSON"),
    (b'{"name":"\\ud800 abc"}', 400, "MALFORMED_JSON"),
    (b'{"name":"\\udc00\\ud800"}', 400, "MALFORMED_JSON"),
    (b'{"name":"a\\u0000b"}', 422, "VALIDATION_ERROR"),
    (b'{"name":"x","a\\u0000":1}', 422, "VALIDATION_ERROR"),
    (b'{"name":' + b"[" * 30_000 + b"]" * 30_000 + b"}", 400, "MALFORMED_JSON"),
    (b'{"name":' + b"[" * 40 + b"]" * 40 + b"}", 422, "VALIDATION_ERROR"),
    (b'{"name":1e999999}', 422, "VALIDATION_ERROR"),
    (b'{"name":' + b"9" * 5000 + b"}", 422, "VALIDATION_ERROR"),
    (b'{"name":NaN}', 400, "MALFORMED_JSON"),
    (b"[]", 422, "VALIDATION_ERROR"),
    (b"null", 422, "VALIDATION_ERROR"),
    (b'"text"', 422, "VALIDATION_ERROR"),
    (b'{"name":null}', 422, "VALIDATION_ERROR"),
    (b'{"name":"x","__class__":"y"}', 422, "VALIDATION_ERROR"),
    (json.dumps({"name": "x" * 1024 * 1024}).encode(), 413, "PAYLOAD_TOO_LARGE"),
]


def test_hostile_bodies_are_the_clients_error(account) -> None:
    headers = {"Content-Type": "application/json"}
    for body, status, code in HOSTILE:
        response = account.request("POST", "/api/projects", content=body, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code), body[:50]
        assert_edge(response)


def test_bodies_without_a_length_are_bounded_too(account) -> None:
    chunks = iter([b'{"name":"'] + [b"x" * 65_536] * 20 + [b'"}'])
    response = account.request("POST", "/api/projects", content=chunks, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")


def test_bodies_to_sign_in_are_small(platform) -> None:
    for path in ("/api/auth/login", "/api/auth/register"):
        body = {"email": "ada@example.com", "password": "x" * 16 * 1024}
        response = platform.client.post(path, json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "PAYLOAD_TOO_LARGE")
        assert "16 KiB" in response.json()["error"]["message"]


def test_a_body_is_not_read_before_its_sender_is_known(platform) -> None:
    async def receive() -> Any:
        raise AssertionError("the body is read")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    def ask(method: str, path: str) -> None:
        headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"9")]
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": headers, "client": ("192.0.2.1", 1), "server": ("127.0.0.1", 80), "scheme": "http",
            "root_path": "", "http_version": "1.1", "asgi": {"version": "3.0"}, "state": {},
        }  # fmt: skip
        platform.client.blocking_portal.call(platform.app, scope, receive, send)

    asked = 0
    routes = declared_routes(platform.app)
    identifiers = unknown_identifiers(resources_of(routes))
    for method, path, opt in routes:
        if not opt.get("public"):
            ask(method, filled(path, identifiers))
            asked += 1
            assert sent[0]["status"] == 401, path
            sent.clear()
    assert asked > 20


def test_only_json_is_taken(account) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        headers = {"Content-Type": media_type}
        response = account.request("POST", "/api/projects", content=b'{"name":"x"}', headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


def test_numbers_that_no_column_holds_are_refused(account) -> None:
    project_id = account.project()["id"]
    for priority in (-1, 10, 2**40, 2**63, 1.5, "5"):
        response = account.request("POST", "/api/deployments", json={"projectId": project_id, "priority": priority})
        assert response.status_code == 422, priority


def test_old_paths_lead_to_the_new_ones(platform) -> None:
    for old, new in [
        ("/api/deploy", "/api/deployments"),
        ("/api/deploy?limit=2&a=%26", "/api/deployments?limit=2&a=%26"),
        ("/api/deploy/depl_1/logs", "/api/deployments/depl_1/logs"),
        ("/api/deploy/depl_1/stream", "/api/deployments/depl_1/logs/stream"),
        ("/api/deployments/depl_1/stream?after=3", "/api/deployments/depl_1/logs/stream?after=3"),
        ("/api/deploy/%0d%0aX:%20y", "/api/deployments/%0D%0AX%3A%20y"),
        ("/api/deploy//evil.example", "/api/deployments/evil.example"),
    ]:
        response = platform.client.get(old, follow_redirects=False)
        assert (response.status_code, response.headers["location"]) == (308, new)
        assert response.headers["deprecation"].startswith("@")
        assert "sunset" in response.headers
        assert 'rel="successor-version"' in response.headers["link"]
    assert platform.client.post("/api/deploy", follow_redirects=False).status_code == 308


def test_the_documentation_lists_every_route_and_its_errors(platform) -> None:
    response = platform.client.get("/api/docs/openapi.json")
    assert response.headers["content-type"].startswith("application/json")
    schema = response.json()
    documented = {
        (method.upper(), path): operation
        for path, item in schema["paths"].items()
        for method, operation in item.items()
    }
    for method, path, opt in declared_routes(platform.app):
        # The last is for the pods of sites alone.
        if path.startswith(("/api/docs", "/api/deploy/", "/api/site-artifacts/")) or path in (
            "/api/deploy",
            "/api/deployments/{deployment_id}/stream",
        ):
            continue
        operation = documented[method, path]
        listed = {code for answer in operation["responses"].values() for code in answer.get("x-error-codes", [])}
        expected = {"INTERNAL"} | {str(code) for code in opt.get("errors", ())}
        expected |= set() if opt.get("public") else {"UNAUTHENTICATED", "FORBIDDEN"}
        assert expected <= listed, (method, path)
    assert "MALFORMED_JSON" in schema["components"]["schemas"]["ErrorCode"]["enum"]
    references = set(json.dumps(schema).split('"#/components/schemas/')[1:])
    assert {reference.split('"')[0] for reference in references} <= set(schema["components"]["schemas"])


def test_the_documentation_names_components_after_types_without_modules(platform) -> None:
    modules = [import_module(f"schemas.{module.name}") for module in pkgutil.iter_modules(schemas.__path__)]
    types = {name for module in modules for name, value in vars(module).items() if isinstance(value, type)}
    types |= {"ErrorCode", "Stage"}
    components = platform.client.get("/api/docs/openapi.json").json()["components"]["schemas"]
    assert {"ProjectResource", "SuccessListProjectResource", "SuccessNone", "SuccessQueuePositionOrNone"} <= set(
        components
    )
    own = "|".join(map(re.escape, types))
    unknown = [name for name in components if not re.fullmatch(rf"(Success)?(List)?({own}|None)(OrNone)?", name)]
    assert unknown == []
    titles = [component["title"] for component in components.values() if "title" in component]
    assert len(titles) == len(set(titles))


def _own_words() -> tuple[set[str], set[str]]:
    """Every text, and every function's name as a summary, of the API's source."""
    texts, names = set[str](), set[str]()
    for path in (Path(__file__).resolve().parents[3] / "api").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(inspect.cleandoc(node.value))
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.add("".join(part.capitalize() for part in node.name.split("_")))
    return texts, names


def test_the_documentation_of_every_route_has_our_texts_only(platform) -> None:
    """No operation shows a text of a library, or none."""
    texts, names = _own_words()
    schema = platform.client.get("/api/docs/openapi.json").json()
    operations = [(path, operation) for path, item in schema["paths"].items() for operation in item.values()]
    assert len(operations) > 30
    for path, operation in operations:
        assert operation.get("summary") in names | texts, path
        assert inspect.cleandoc(operation.get("description", "")) in texts, path
        assert operation["description"].strip(), path


def test_the_documentations_page_loads_nothing(platform) -> None:
    response = platform.client.get("/api/docs")
    assert response.status_code == 200
    assert "<script" not in response.text
    assert "http" not in response.text.replace("https://", "http://").split("<h1>")[0]
    assert "/api/projects/{project_id}" in response.text


def test_health_shows_its_details_to_administrators_alone(platform, account) -> None:
    def answered(path: str, **headers: str) -> httpx.Response:
        responses: list[httpx.Response] = []

        def is_well() -> bool:
            responses.append(platform.client.get(path, headers=headers))
            return responses[-1].status_code == 200

        eventually(is_well)
        return responses[-1]

    for path in ("/api/health", "/api/health/ready", "/api/health/live", "/api/health/startup"):
        # What a dependency on a busy machine takes a second to answer counts as no answer.
        response = answered(path)
        assert response.json()["data"] == {"status": "ok", "dependencies": None}
    assert answered("/api/health", **account.headers).json()["data"]["dependencies"] is None
