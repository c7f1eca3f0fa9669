from __future__ import annotations

from collections.abc import Callable

import httpx
import msgspec
import pytest

from api.client.errors import ApiError, ExitCode, Unreachable
from api.client.http import ApiClient
from api.client.transport import ATTEMPTS, retry_after_seconds
from schemas.deployments import CreateDeploymentRequest
from schemas.projects import CreateProjectRequest, SetVariableRequest

USER = {"id": "user_1", "email": "a@example.com", "name": "A", "plan": "FREE", "image": None}
Handler = Callable[[httpx.Request], httpx.Response]


def success(data: object, **meta: object) -> httpx.Response:
    return httpx.Response(200, json={"ok": True, "data": data, "meta": meta})


def failure(status: int, code: str, *, headers: dict[str, str] | None = None, **details: object) -> httpx.Response:
    error = {"code": code, "message": "No.", "requestId": "req-1", "details": details}
    return httpx.Response(status, json={"ok": False, "error": error}, headers=headers)


class Server:
    """Answers with the given responses in turn, then always with the last one. An exception is raised."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.pauses: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, token: str | None = "cfy_secret") -> ApiClient:
        return ApiClient(
            "https://api.example.com", token, http_transport=httpx.MockTransport(self), pause=self.pauses.append
        )


def test_decodes_the_envelope_and_sends_the_token() -> None:
    server = Server(success(USER))
    assert server.client().user().email == "a@example.com"
    assert str(server.requests[0].url) == "https://api.example.com/api/auth/me"
    assert server.requests[0].headers["Authorization"] == "Bearer cfy_secret"


def test_an_error_carries_code_request_id_and_details() -> None:
    server = Server(failure(403, "FORBIDDEN", permission="deploy:create"))
    with pytest.raises(ApiError) as caught:
        server.client().user()
    error = caught.value
    assert (error.code, error.status, error.request_id) == ("FORBIDDEN", 403, "req-1")
    assert error.details == {"permission": "deploy:create"}
    assert error.exit_code is ExitCode.NOT_AUTHENTICATED
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [
        (400, ExitCode.USAGE),
        (401, ExitCode.NOT_AUTHENTICATED),
        (402, ExitCode.FAILED),
        (404, ExitCode.NOT_FOUND),
        (409, ExitCode.FAILED),
        (422, ExitCode.USAGE),
        (429, ExitCode.UNREACHABLE),
        (500, ExitCode.FAILED),
        (503, ExitCode.UNREACHABLE),
    ],
)
def test_each_status_has_its_exit_code(status: int, exit_code: ExitCode) -> None:
    with pytest.raises(ApiError) as caught:
        Server(failure(status, "SOME_CODE")).client().user()
    assert caught.value.exit_code is exit_code


@pytest.mark.parametrize("first", [httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.Response(502)])
def test_a_read_is_repeated_when_the_api_is_away(first: httpx.Response | Exception) -> None:
    server = Server(first, success(USER))
    assert server.client().user().id == "user_1"
    assert len(server.requests) == 2


def test_retry_after_is_obeyed() -> None:
    server = Server(failure(503, "UNAVAILABLE", headers={"Retry-After": "7"}), success(USER))
    server.client().user()
    assert server.pauses == [7.0]


def test_too_long_a_wait_is_an_error_at_once() -> None:
    server = Server(failure(429, "LOGIN_THROTTLED", headers={"Retry-After": "3600"}))
    with pytest.raises(ApiError, match="No"):
        server.client().user()
    assert server.pauses == []


def test_repeats_end() -> None:
    server = Server(httpx.ConnectError("refused"))
    with pytest.raises(Unreachable) as caught:
        server.client().user()
    assert len(server.requests) == ATTEMPTS
    assert caught.value.exit_code is ExitCode.UNREACHABLE


def test_creating_is_repeated_with_the_same_idempotency_key() -> None:
    deployment = failure(422, "VALIDATION_ERROR")
    server = Server(httpx.ReadError("reset"), failure(409, "IDEMPOTENCY_IN_PROGRESS"), deployment)
    with pytest.raises(ApiError, match="No"):
        server.client().create_deployment(CreateDeploymentRequest(project_id="proj_1"))
    keys = {request.headers["Idempotency-Key"] for request in server.requests}
    assert len(server.requests) == 3
    assert len(keys) == 1
    assert {request.content for request in server.requests} == {server.requests[0].content}


def test_two_creations_have_different_keys() -> None:
    server = Server(failure(422, "VALIDATION_ERROR"))
    client = server.client()
    for _ in range(2):
        with pytest.raises(ApiError):
            client.create_project(CreateProjectRequest(name="site"))
    assert len({request.headers["Idempotency-Key"] for request in server.requests}) == 2


def test_a_login_is_not_repeated_once_it_was_sent() -> None:
    server = Server(httpx.ReadError("reset"))
    with pytest.raises(Unreachable):
        server.client(None).create_token("a@example.com", "password", "cli")
    assert len(server.requests) == 1


def test_create_token_uses_the_access_token_of_the_login() -> None:
    token = {
        "id": "tok_1", "name": "cli", "prefix": "cfy_x", "scopes": [], "expiresAt": None, "lastUsedAt": None,
        "createdAt": "2026-01-01T00:00:00Z", "token": "cfy_new",
    }  # fmt: skip
    server = Server(success({"user": USER, "accessToken": "jwt", "expiresIn": 600}), success(token))
    assert server.client(None).create_token("a@example.com", "password", "cli").token == "cfy_new"
    assert "Authorization" not in server.requests[0].headers
    assert server.requests[1].headers["Authorization"] == "Bearer jwt"


@pytest.mark.parametrize("body", [b"<html>hello</html>", b'{"ok": true}', b"", b'{"ok":true,"data":{"id":1}}'])
def test_an_answer_of_something_else_is_a_clear_error(body: bytes) -> None:
    with pytest.raises(Unreachable, match="doesn't speak this API"):
        Server(httpx.Response(200, content=body)).client().user()


def test_no_content_is_a_success_for_a_deletion_only() -> None:
    Server(httpx.Response(204)).client().delete_variable("proj_1", "KEY")
    with pytest.raises(Unreachable):
        Server(httpx.Response(204)).client().user()


def test_an_argument_stays_one_segment_of_the_path() -> None:
    server = Server(failure(404, "NOT_FOUND"))
    with pytest.raises(ApiError):
        server.client().set_variable("../deployments", "a/b?c", SetVariableRequest(value="x"))
    assert server.requests[0].url.raw_path == b"/api/projects/%2E%2E%2Fdeployments/env/a%2Fb%3Fc"


def test_pages_are_followed_to_the_limit() -> None:
    project = {
        "name": "n", "repositoryUrl": None, "repositoryBranch": "main", "rootDirectory": ".", "framework": None,
        "installCommand": None, "buildCommand": None, "outputDirectory": None, "nodeVersion": None, "url": "http://x",
        "isPinned": False, "activeDeploymentId": None, "createdAt": "2026-01-01T00:00:00Z",
        "updatedAt": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    pages = {
        None: success(
            [{**project, "id": f"proj_{n}", "slug": f"s{n}"} for n in range(100)],
            pagination={"hasMore": True, "cursor": "next"},
        ),
        "next": success(
            [{**project, "id": "proj_100", "slug": "s100"}], pagination={"hasMore": True, "cursor": "more"}
        ),
    }
    asked: list[tuple[str | None, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        cursor = request.url.params.get("cursor")
        asked.append((cursor, request.url.params["limit"]))
        return pages[cursor]

    client = ApiClient("http://127.0.0.1:1", "t", http_transport=httpx.MockTransport(answer))
    assert [item.slug for item in client.projects(limit=101)] == [f"s{n}" for n in range(101)]
    assert asked == [(None, "100"), ("next", "1")]


def test_the_token_is_in_no_message() -> None:
    client = Server(httpx.ConnectError("refused")).client()
    with pytest.raises(Unreachable) as caught:
        client.user()
    assert "cfy_secret" not in caught.value.message + caught.value.advice + repr(client) + repr(client.transport)


def test_retry_after_may_be_a_date() -> None:
    past = httpx.Response(503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    assert retry_after_seconds(past) == 0.0
    assert retry_after_seconds(httpx.Response(503, headers={"Retry-After": "soon"})) is None
    assert retry_after_seconds(httpx.Response(503)) is None


def test_unset_fields_of_an_update_are_not_sent() -> None:
    from schemas.projects import UpdateProjectRequest

    assert msgspec.json.encode(UpdateProjectRequest(repository_url="https://x/y")) == b'{"repositoryUrl":"https://x/y"}'
