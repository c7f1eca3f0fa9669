"""Requests that a careless or hostile client sends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import anyio.to_thread
import pytest


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
    address = "a" * 500_000
    body = {"email": address, "password": "correct horse battery"}
    answers = [platform.client.post("/api/auth/login", json=body).status_code for _ in range(6)]
    assert answers == [401] * 5 + [429]
    # The same account to the throttle: what follows the first 255 characters is not kept.
    again = platform.client.post("/api/auth/login", json=body | {"email": address + "b"})
    assert again.status_code == 429


def test_live_answers_while_every_thread_is_taken(platform) -> None:
    released = Event()

    async def take_all() -> None:
        limiter = anyio.to_thread.current_default_thread_limiter()
        async with anyio.create_task_group() as group:
            for _ in range(int(limiter.total_tokens)):
                group.start_soon(anyio.to_thread.run_sync, released.wait)
            taken.set()

    taken = Event()
    portal = platform.client.blocking_portal
    occupation = portal.start_task_soon(take_all)
    try:
        assert taken.wait(120)
        with ThreadPoolExecutor(1) as executor:
            response = executor.submit(platform.client.get, "/api/health/live")
            assert response.result(timeout=120).status_code == 200
    finally:
        released.set()
        occupation.result(timeout=120)
