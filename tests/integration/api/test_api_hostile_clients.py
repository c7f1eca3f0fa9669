"""Requests that a careless or hostile client sends."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from threading import Event, Semaphore, Thread
from typing import Any

import pytest
from litestar._parsers import parse_cookie_string

from api.edge.callers import address_caller
from api.edge.turns import Caller
from tests.support.log_rows import eventually


def test_options_names_every_method_of_the_address(platform, account) -> None:
    project = account.project()
    for path, allowed in {
        "/api/projects": "GET, HEAD, OPTIONS, POST",
        f"/api/projects/{project['id']}": "DELETE, GET, HEAD, OPTIONS, PATCH",
        "/api/auth/login": "OPTIONS, POST",
    }.items():
        assert platform.client.options(path).headers["allow"] == allowed
        assert platform.client.request("TRACE", path).headers["allow"] == allowed


@pytest.mark.parametrize(
    "expires_at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59Z"]
)
def test_a_token_that_expires_at_the_end_of_time_is_refused(account, expires_at: str) -> None:
    response = account.request("POST", "/api/auth/tokens", json={"name": "x", "expiresAt": expires_at})
    assert response.status_code == 422
    assert response.json()["error"]["details"]["fields"][0]["field"] == "expiresAt"


def test_names_hold_no_control_characters(platform, account) -> None:
    response = account.request("POST", "/api/auth/tokens", json={"name": "\x1b[31mred"})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "VALIDATION_ERROR")
    body = {"email": "grace@example.com", "password": "correct horse battery", "name": "\x1b[31mred"}
    assert platform.client.post("/api/auth/register", json=body).status_code == 422


def test_a_parameter_may_be_given_once_and_is_called_as_clients_call_it(account) -> None:
    twice = account.request("GET", "/api/deployments?status=ready&status=failed")
    assert (twice.status_code, twice.json()["error"]["code"]) == (400, "INVALID_FILTER")
    wrong = account.request("GET", "/api/deployments?isPreview=maybe")
    assert wrong.json()["error"]["details"]["fields"][0]["field"] == "isPreview"
    assert account.request("GET", "/api/projects?sort=").json()["error"]["code"] == "INVALID_SORT"


def test_redirects_have_no_body(platform) -> None:
    response = platform.client.get("/api/deploy", follow_redirects=False)
    assert (response.status_code, response.content) == (308, b"")


def test_failed_logins_with_huge_addresses_are_not_remembered_in_full(platform) -> None:
    address = "a" * 10_000
    body = {"email": address, "password": "correct horse battery"}
    answers = [platform.client.post("/api/auth/login", json=body).status_code for _ in range(6)]
    assert answers == [401] * 5 + [429]
    # The same account to the throttle: what follows the first 255 characters is not kept.
    again = platform.client.post("/api/auth/login", json=body | {"email": address + "b"})
    assert again.status_code == 429


STRANGERS = [address_caller("testclient"), address_caller("192.0.2.1")]


def user(account: Any) -> Caller:
    return Caller(account.user_id, account.user_id, is_known=True)


def test_cookies_that_the_api_never_set_are_not_remembered(platform) -> None:
    remembered = parse_cookie_string.cache_info().currsize
    for method, path in (("POST", "/api/auth/refresh"), ("POST", "/api/auth/login"), ("GET", "/api/events/stream")):
        body = {"email": "ada@example.com", "password": "correct horse battery"}
        answer = platform.client.request(method, path, headers={"Cookie": f"{path}=1"}, json=body)
        assert answer.status_code == 401
    assert parse_cookie_string.cache_info().currsize == remembered


def test_bodies_are_as_large_as_their_fields_can_be(account) -> None:
    project_id = account.project()["id"]
    value = '{"value": "' + "\\u0041" * 65_536 + '"'
    for method, path, most, beginning in (
        ("PUT", f"/api/projects/{project_id}/env/KEY", 512, value),
        ("POST", "/api/projects", 64, '{"name": "x"'),
        ("PATCH", f"/api/projects/{project_id}", 64, '{"name": "x"'),
        ("PUT", f"/api/projects/{project_id}/repository-credentials", 64, '{"kind": "token", "token": "x"'),
    ):
        body = beginning + "}"
        padded = body + " " * (most * 1024 + 1 - len(body))
        headers = {"Content-Type": "application/json"}
        assert account.request(method, path, content=body, headers=headers).status_code in (200, 201), path
        refused = account.request(method, path, content=padded, headers=headers)
        assert (refused.status_code, f"larger than {most} KiB" in refused.text) == (413, True), path


@contextmanager
def occupied(platform: Any, lane_name: str, callers: Sequence[Caller], *, waiting: int = 0) -> Generator[None]:
    """Every thread of the lane that the callers can have is theirs, and so many more of each wait."""
    lane = getattr(platform.app.state.lanes, lane_name)
    released, begun = Event(), Semaphore(0)

    def hold() -> None:
        begun.release()
        assert released.wait(300)

    held = [lane.submit(caller, hold) for caller in callers for _ in range(lane.most_of_a_caller)]
    try:
        for _ in held:
            assert begun.acquire(timeout=120)
        held += [lane.submit(caller, hold) for caller in callers for _ in range(waiting)]
        yield
    finally:
        released.set()
        for future in held:
            future.exception(120)


@pytest.mark.parametrize("lane", ["passwords", "logs", "health", "bodies"])
def test_no_kind_of_request_holds_another(platform, account, lane: str) -> None:
    project_id = account.project()["id"]
    made = account.request("POST", "/api/deployments", json={"projectId": project_id}).json()["data"]
    login = {"email": "ada@example.com", "password": "correct horse battery"}
    # More than 64 KiB as JSON, and a value of less.
    value = {"value": "\n" * 60_000}
    asked = {
        "passwords": ("POST", "/api/auth/login", login, 200),
        "logs": ("GET", f"/api/deployments/{made['id']}/logs", None, 200),
        "health": ("GET", "/api/health/startup", None, 200),
        "bodies": ("PUT", f"/api/projects/{project_id}/env/KEY", value, 200),
    }
    with occupied(platform, lane, STRANGERS):
        assert platform.client.get("/api/health/live").status_code == 200
        assert account.request("GET", "/api/projects").status_code == 200
        for name, (method, path, body, status) in asked.items():
            if name != lane:
                assert account.request(method, path, json=body).status_code == status, name


@pytest.mark.parametrize("path", ["/api/health", "/api/health/ready"])
def test_health_with_a_credential_waits_behind_no_requests(platform, account, path: str) -> None:
    account.request("GET", "/api/projects")
    with occupied(platform, "requests", [user(account), Caller("another", "another", is_known=True)], waiting=300):
        assert account.request("GET", "/api/projects").status_code == 503
        # What a dependency on a busy machine takes a second to answer counts as no answer.
        eventually(lambda: account.request("GET", path).status_code == 200)


def test_a_caller_that_floods_is_refused_and_others_are_not(platform, account, register) -> None:
    other = register("grace@example.com")
    account.request("GET", "/api/projects")
    other.request("GET", "/api/projects")
    with occupied(platform, "requests", [user(account)], waiting=300):
        refused = account.request("GET", "/api/projects")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "UNAVAILABLE")
        assert int(refused.headers["retry-after"]) > 0
        for path in ("/api/projects", "/api/deployments", "/api/auth/me"):
            assert other.request("GET", path).status_code == 200
        assert platform.client.get("/api/health/live").status_code == 200
    assert account.request("GET", "/api/projects").status_code == 200


def test_registrations_beyond_the_short_queue_are_refused(platform) -> None:
    with occupied(platform, "passwords", STRANGERS, waiting=20):
        body = {"email": "ada@example.com", "password": "correct horse battery"}
        for path in ("/api/auth/register", "/api/auth/login"):
            response = platform.client.post(path, json=body)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "UNAVAILABLE")
            assert int(response.headers["retry-after"]) > 0


def test_no_number_of_strangers_refuses_a_user_or_a_device_that_has_signed_in(platform, account) -> None:
    """As many as there are places wait in each lane, all from addresses of their own."""
    login = {"email": "ada@example.com", "password": "correct horse battery"}
    assert platform.client.post("/api/auth/login", json=login).status_code == 200
    assert account.request("GET", "/api/projects").status_code == 200
    lanes = platform.app.state.lanes
    released, answers = Event(), list[Any]()
    held = [
        lane.submit(address_caller(f"198.51.{number // 250}.{number % 250}"), lambda: released.wait(300))
        for lane in (lanes.requests, lanes.passwords)
        for number in range(300)
    ]
    asking = [
        Thread(target=lambda: answers.append(platform.client.post("/api/auth/login", json=login))),
        Thread(target=lambda: answers.append(account.request("GET", "/api/projects"))),
    ]
    try:
        for thread in asking:
            thread.start()
        refused = platform.client.post("/api/auth/login", json=login, headers={"Cookie": ""})
        assert refused.status_code == 503
    finally:
        released.set()
        for thread in asking:
            thread.join(120)
        for future in held:
            future.exception(120)
    assert [answer.status_code for answer in answers] == [200, 200]
