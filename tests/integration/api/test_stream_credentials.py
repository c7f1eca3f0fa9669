"""Who may open a stream: tickets and the session's cookie, on a real server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest

from api.session_cookie import REFRESH_COOKIE
from shared.settings import Settings
from tests.support.live_api import TIMEOUT_SECONDS, LiveApi, LiveStream, User, live_api
from tests.support.log_rows import line
from tests.support.manual_clock import ManualClock

pytestmark = pytest.mark.integration


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC))


@pytest.fixture
def api(settings: Settings, clock: ManualClock) -> Iterator[LiveApi]:
    with live_api(settings, clock=clock) as api:
        yield api


@pytest.fixture
def ada(api: LiveApi) -> User:
    return api.user()


def cookie(user: User) -> dict[str, str]:
    return {"Cookie": f"{REFRESH_COOKIE}={user.session.refresh_token}"}


def refused(stream: LiveStream, status: int, code: str, text: str) -> None:
    stream.answered()
    assert stream.status == status, stream.body
    assert f'"{code}"'.encode() in stream.body
    assert text.encode() in stream.body


def test_a_ticket_opens_one_stream_once(api: LiveApi, ada: User) -> None:
    deployment = api.deployment(ada)
    response = httpx.post(
        f"{api.url}/api/auth/stream-tickets",
        headers=ada.bearer,
        json={"deploymentId": deployment},
        timeout=TIMEOUT_SECONDS,
    )
    assert response.status_code == 201
    assert response.headers["location"] == f"/api/deployments/{deployment}/logs/stream"
    assert response.headers["cache-control"] == "no-store"
    ticket = response.json()["data"]["ticket"]
    stream = api.follow(deployment, ticket=ticket).opened()
    api.write(deployment, line("for the holder of a ticket"))
    stream.heard("for the holder of a ticket")
    refused(api.follow(deployment, ticket=ticket), 401, "UNAUTHENTICATED", "POST /api/auth/stream-tickets")
    assert stream.is_open
    assert not api.database.exists("SELECT 1 FROM stream_tickets")
    api.ticket(ada.bearer, deploymentId=deployment)
    [stored] = api.database.fetch_values(str, "SELECT t::text FROM stream_tickets t")
    assert "cst_" not in stored


def test_of_many_that_present_a_ticket_at_once_one_is_let_in(api: LiveApi, ada: User) -> None:
    deployment = api.deployment(ada)
    ticket = api.ticket(ada.bearer, deploymentId=deployment)
    streams: list[LiveStream] = []
    threads = [threading.Thread(target=lambda: streams.append(api.follow(deployment, ticket=ticket))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stream.answered().status for stream in streams) == [200] + [401] * 7


def test_a_ticket_that_has_expired(api: LiveApi, ada: User, clock: ManualClock) -> None:
    deployment = api.deployment(ada)
    early, late = (api.ticket(ada.bearer, deploymentId=deployment) for _ in range(2))
    clock.advance(59)
    api.follow(deployment, ticket=early).opened()
    clock.advance(1)
    refused(api.follow(deployment, ticket=late), 401, "TOKEN_EXPIRED", "POST /api/auth/stream-tickets")


def test_a_ticket_for_another_stream(api: LiveApi, ada: User) -> None:
    deployment, other = api.deployment(ada), api.deployment(ada)
    ticket = api.ticket(ada.bearer, deploymentId=other)
    refused(api.follow(deployment, ticket=ticket), 401, "UNAUTHENTICATED", "for another stream")
    refused(api.follow(other, ticket=ticket), 401, "UNAUTHENTICATED", "is unknown")
    accounts = api.ticket(ada.bearer)
    refused(api.follow(deployment, ticket=accounts), 401, "UNAUTHENTICATED", "for another stream")
    of_log = api.ticket(ada.bearer, deploymentId=deployment)
    refused(LiveStream(f"{api.url}/api/events/stream", ticket=of_log), 401, "UNAUTHENTICATED", "for another stream")
    LiveStream(f"{api.url}/api/events/stream", ticket=api.ticket(ada.bearer)).opened()


def test_an_invalid_ticket(api: LiveApi, ada: User) -> None:
    deployment = api.deployment(ada)
    for ticket in ("", "cst_", "cst_" + "A" * 43, "x" * 4000, "%00", "\N{SNOWMAN}"):
        refused(api.follow(deployment, ticket=ticket), 401, "UNAUTHENTICATED", "POST /api/auth/stream-tickets")


def test_a_ticket_whose_holder_lost_the_right(api: LiveApi, ada: User) -> None:
    deployment = api.deployment(ada)
    token_id, token = api.token(ada)
    by_token, by_session = (api.ticket(headers, deploymentId=deployment) for headers in (token, ada.bearer))
    api.services.tokens.revoke(ada.id, token_id)
    refused(api.follow(deployment, ticket=by_token), 401, "UNAUTHENTICATED", "was revoked")
    api.services.sessions.end(ada.session.refresh_token)
    refused(api.follow(deployment, ticket=by_session), 401, "SESSION_REVOKED", "sign in again")

    bea = api.user("bea@example.com")
    ticket = api.ticket(bea.bearer, deploymentId=(theirs := api.deployment(bea)))
    api.change("DELETE FROM memberships WHERE user_id = %s AND tenant_id <> %s", bea.id, own_tenant(api, bea))
    refused(api.follow(theirs, ticket=ticket), 404, "NOT_FOUND", "no such deployment")


def own_tenant(api: LiveApi, user: User) -> str:
    return api.services.tenants.memberships_of(user.id)[0].tenant_id


def test_a_ticket_has_the_rights_of_the_token_that_asked(api: LiveApi, ada: User) -> None:
    deployment = api.deployment(ada)
    _, reader = api.token(ada, "deploy:read")
    _, other = api.token(ada, "project:read")
    api.follow(deployment, ticket=api.ticket(reader, deploymentId=deployment)).opened()
    ask = f"{api.url}/api/auth/stream-tickets"
    # A token that can't read deployments isn't told which there are.
    assert httpx.post(ask, headers=other, json={"deploymentId": deployment}, timeout=TIMEOUT_SECONDS).status_code == 404
    assert httpx.post(ask, headers=other, json={}, timeout=TIMEOUT_SECONDS).status_code == 403
    stranger = api.user("bea@example.com")
    for body in ({"deploymentId": deployment}, {"deploymentId": "depl_x"}, {"deploymentId": ""}):
        assert (
            httpx.post(ask, headers=stranger.bearer, json=body, timeout=TIMEOUT_SECONDS).json()["error"]["code"]
            == "NOT_FOUND"
        )
    for body in ({"deploymentId": None}, {"deploymentId": 1}, {"deploymentId": "\x00"}, {"deployment": deployment}):
        assert httpx.post(ask, headers=ada.bearer, json=body, timeout=TIMEOUT_SECONDS).status_code == 422
    assert httpx.post(ask, json={"deploymentId": deployment}, timeout=TIMEOUT_SECONDS).status_code == 401
    assert (
        httpx.post(ask, headers=cookie(ada), json={"deploymentId": deployment}, timeout=TIMEOUT_SECONDS).status_code
        == 401
    )


def test_no_other_route_takes_a_ticket_or_the_cookie(api: LiveApi, ada: User) -> None:
    deployment = api.deployment(ada)
    ticket = api.ticket(ada.bearer, deploymentId=deployment)
    for path in (f"/api/deployments/{deployment}", f"/api/deployments/{deployment}/logs", "/api/auth/me"):
        assert httpx.get(api.url + path, params={"ticket": ticket}, timeout=TIMEOUT_SECONDS).status_code == 401
        assert httpx.get(api.url + path, headers=cookie(ada), timeout=TIMEOUT_SECONDS).status_code == 401
        assert (
            httpx.get(
                api.url + path, headers=ada.bearer, params={"ticket": ticket}, timeout=TIMEOUT_SECONDS
            ).status_code
            == 400
        )
    api.follow(deployment, ticket=ticket).opened()


def test_the_sessions_cookie_opens_streams_and_stays(api: LiveApi, ada: User, clock: ManualClock) -> None:
    deployment = api.deployment(ada)
    for _ in range(2):
        stream = api.follow(deployment, cookie(ada)).opened()
        assert "set-cookie" not in stream.headers
    LiveStream(f"{api.url}/api/events/stream", cookie(ada)).opened()
    api.follow(deployment, {**cookie(ada), "Sec-Fetch-Site": "same-origin"}).opened()
    for site in ("cross-site", "same-site"):
        refused(api.follow(deployment, {**cookie(ada), "Sec-Fetch-Site": site}), 403, "CSRF_REJECTED", "another site")
    # The token of two tabs that refresh at once: the one that was replaced is good for a moment.
    successor = api.services.sessions.refresh(ada.session.refresh_token, user_agent=None, address=None)
    clock.advance(10)
    api.follow(deployment, cookie(ada)).opened()
    clock.advance(1)
    refused(api.follow(deployment, cookie(ada)), 401, "UNAUTHENTICATED", "sign in again")
    # A stale cookie on a read is no reason to end the login.
    fresh = User(ada.id, successor)
    api.follow(deployment, cookie(fresh)).opened()
    api.services.sessions.end(successor.refresh_token)
    refused(api.follow(deployment, cookie(fresh)), 401, "SESSION_REVOKED", "sign in again")
    refused(api.follow(deployment, {"Cookie": f"{REFRESH_COOKIE}=x"}), 401, "UNAUTHENTICATED", "sign in again")


def test_the_header_wins_over_a_ticket_and_that_over_the_cookie(api: LiveApi, ada: User) -> None:
    deployment = api.deployment(ada)
    ticket = api.ticket(ada.bearer, deploymentId=deployment)
    bad = {"Authorization": "Bearer nonsense"}
    refused(api.follow(deployment, {**bad, **cookie(ada)}, ticket=ticket), 401, "UNAUTHENTICATED", "not valid")
    refused(api.follow(deployment, cookie(ada), ticket="cst_x"), 401, "UNAUTHENTICATED", "is unknown")
    # The ticket was not looked at while there was a header.
    api.follow(deployment, ada.bearer, ticket=ticket).opened()
    api.follow(deployment, ticket=ticket).opened()


def test_a_position_that_this_log_does_not_have(api: LiveApi, ada: User) -> None:
    deployment, foreign = api.deployment(ada), api.deployment(ada)
    api.write(deployment)
    api.write(foreign, *(line(str(number)) for number in range(99)))
    # 99 is a number of the other log; one that both have can't be told from this log's own.
    for position in ("x", "-1", "1.0", "99", "9" * 30):
        stream = api.follow(deployment, {**ada.bearer, "Last-Event-ID": position})
        refused(stream, 400, "INVALID_CURSOR", "position")
    api.follow(deployment, {**ada.bearer, "Last-Event-ID": ""}).opened().heard('"seq":1')
    api.follow(deployment, {**ada.bearer, "Last-Event-ID": "1"}).opened()
    assert api.slots(ada) <= 2


def test_the_documentation_tells_of_the_credentials(api: LiveApi) -> None:
    schema = httpx.get(f"{api.url}/api/docs/openapi.json", timeout=TIMEOUT_SECONDS).json()
    for path in ("/api/deployments/{deployment_id}/logs/stream", "/api/events/stream"):
        operation = schema["paths"][path]["get"]
        assert operation["security"] == [{"bearer": []}, {"streamTicket": []}, {"sessionCookie": []}]
        assert "ticket" in {parameter["name"] for parameter in operation["parameters"]}
        assert "STREAM_LIMIT" in operation["responses"]["429"]["x-error-codes"]
        assert "CSRF_REJECTED" in operation["responses"]["403"]["x-error-codes"]
        assert "INVALID_CURSOR" in operation["responses"]["400"]["x-error-codes"]
    schemes = schema["components"]["securitySchemes"]
    assert (schemes["streamTicket"]["in"], schemes["streamTicket"]["name"]) == ("query", "ticket")
    assert (schemes["sessionCookie"]["in"], schemes["sessionCookie"]["name"]) == ("cookie", REFRESH_COOKIE)
    assert "/api/auth/stream-tickets" in schema["paths"]
    assert "cst_" not in httpx.get(f"{api.url}/api/docs/openapi.json", timeout=TIMEOUT_SECONDS).text
