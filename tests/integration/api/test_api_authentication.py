from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import jwt

from api.routes.authentication import REFRESH_COOKIE
from schemas.accounts import DEVICE_COOKIE
from shared.accounts.stream_rights import StreamRightsRepository

LOGIN = {"email": "ada@example.com", "password": "correct horse battery"}


def code_of(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


def sign_in(account) -> tuple[str, str]:
    client = account.platform.client
    response = client.post("/api/auth/login", json=LOGIN)
    client.cookies.clear()
    assert response.status_code == 200
    return response.json()["data"]["accessToken"], response.cookies[REFRESH_COOKIE]


def refresh(account, cookie: str, **headers: str) -> Any:
    client = account.platform.client
    response = client.post("/api/auth/refresh", headers={"Cookie": f"{REFRESH_COOKIE}={cookie}", **headers})
    client.cookies.clear()
    return response


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def age_replaced_tokens(account, seconds: int) -> None:
    with account.platform.backends.database.transaction() as connection:
        connection.execute("UPDATE sessions SET replaced_at = replaced_at - make_interval(secs => %s)", (seconds,))


def test_registration_gives_a_user_with_a_tenant(account) -> None:
    me = account.request("GET", "/api/auth/me").json()["data"]
    assert me == {"id": account.user_id, "email": "ada@example.com", "name": "", "plan": "FREE", "image": None}
    taken = account.platform.client.post("/api/auth/register", json={**LOGIN, "email": "ADA@example.com "})
    assert code_of(taken) == (409, "CONFLICT")


def test_registration_names_every_wrong_field(platform) -> None:
    response = platform.client.post(
        "/api/auth/register", json={"email": "nobody", "password": "short", "name": "x" * 201}
    )
    assert {field["field"] for field in response.json()["error"]["details"]["fields"]} == {"email", "password", "name"}


def test_the_refresh_cookie_is_for_this_host_alone(account) -> None:
    response = account.platform.client.post("/api/auth/login", json=LOGIN)
    cookie = response.headers["set-cookie"].lower()
    assert cookie.startswith("__host-cloudify_refresh=")
    for part in ("httponly", "secure", "path=/", "samesite=strict"):
        assert part in cookie
    assert "domain" not in cookie


def test_wrong_password_and_unknown_account_are_alike_and_throttled(account) -> None:
    client = account.platform.client
    answers = []
    for email in ("ada@example.com", "nobody@example.com"):
        response = client.post("/api/auth/login", json={"email": email, "password": "wrong password"})
        answers.append((code_of(response), response.json()["error"]["message"]))
    assert answers[0] == answers[1]
    assert answers[0][0] == (401, "INVALID_CREDENTIALS")
    for _ in range(4):
        client.post("/api/auth/login", json={**LOGIN, "password": "wrong password"})
    for password in (LOGIN["password"], "wrong password"):
        throttled = client.post("/api/auth/login", json={**LOGIN, "password": password})
        assert code_of(throttled) == (429, "LOGIN_THROTTLED")
        assert 0 < int(throttled.headers["retry-after"]) <= 60


def test_guesses_of_a_stranger_lock_out_no_device_that_has_signed_in(account) -> None:
    client = account.platform.client
    cookie = {"Cookie": f"{DEVICE_COOKIE}={client.post('/api/auth/login', json=LOGIN).cookies[DEVICE_COOKIE]}"}
    client.cookies.clear()
    wrong = {**LOGIN, "password": "wrong password"}
    assert [client.post("/api/auth/login", json=wrong).status_code for _ in range(6)] == [401] * 5 + [429]
    assert client.post("/api/auth/login", json=LOGIN).status_code == 429
    for _ in range(7):
        # Right passwords don't count.
        again = client.post("/api/auth/login", json=LOGIN, headers=cookie)
        client.cookies.clear()
        assert again.status_code == 200
    guesses = [client.post("/api/auth/login", json=wrong, headers=cookie).status_code for _ in range(6)]
    assert guesses == [401] * 5 + [429], "a stolen cookie gives no more guesses"


def test_the_device_cookie_is_for_this_host_alone(account) -> None:
    response = account.platform.client.post("/api/auth/login", json=LOGIN)
    [cookie] = [value for value in response.headers.get_list("set-cookie") if value.startswith(DEVICE_COOKIE)]
    for part in ("httponly", "secure", "path=/", "samesite=strict"):
        assert part in cookie.lower()
    assert "domain" not in cookie.lower()


def test_refresh_replaces_the_cookie_and_reuse_ends_the_family(account) -> None:
    access, first = sign_in(account)
    renewed = refresh(account, first)
    assert renewed.status_code == 200
    second = renewed.cookies[REFRESH_COOKIE]
    assert second != first
    # Replaced ten minutes from now, so that the grace of 10 s is not over however slow this test is.
    age_replaced_tokens(account, -600)
    assert refresh(account, first).status_code == 200, "within the grace of 10 s a second tab gets a successor, too"

    age_replaced_tokens(account, 611)
    assert code_of(refresh(account, first)) == (401, "SESSION_REVOKED")
    assert code_of(refresh(account, second)) == (401, "SESSION_REVOKED")
    client = account.platform.client
    assert code_of(client.get("/api/auth/me", headers=bearer(access))) == (401, "SESSION_REVOKED")
    assert account.request("GET", "/api/auth/me").status_code == 200, "another login stays valid"


def test_logout_ends_the_session_at_once(account) -> None:
    access, cookie = sign_in(account)
    client = account.platform.client
    response = client.post("/api/auth/logout", headers={"Cookie": f"{REFRESH_COOKIE}={cookie}"})
    assert response.status_code == 204
    assert response.content == b""
    assert code_of(client.get("/api/auth/me", headers=bearer(access))) == (401, "SESSION_REVOKED")
    assert client.post("/api/auth/logout").status_code == 204


def test_refresh_from_another_site_is_refused(account) -> None:
    _, cookie = sign_in(account)
    assert code_of(refresh(account, cookie, **{"Sec-Fetch-Site": "cross-site"})) == (403, "CSRF_REJECTED")
    assert code_of(refresh(account, "unknown")) == (401, "UNAUTHENTICATED")


def test_sessions_are_listed_and_ended(account) -> None:
    access, _ = sign_in(account)
    client = account.platform.client
    sessions = client.get("/api/auth/sessions", headers=bearer(access)).json()["data"]
    assert [session["isCurrent"] for session in sessions] == [True, False]
    assert account.request("DELETE", f"/api/auth/sessions/{sessions[0]['id']}").status_code == 204
    assert code_of(client.get("/api/auth/me", headers=bearer(access))) == (401, "SESSION_REVOKED")
    assert code_of(account.request("DELETE", f"/api/auth/sessions/{sessions[0]['id']}")) == (404, "NOT_FOUND")


def test_forged_access_tokens_are_refused(account) -> None:
    access, _ = sign_in(account)
    claims = jwt.decode(access, options={"verify_signature": False})
    kid = jwt.get_unverified_header(access)["kid"]
    forged = [
        jwt.encode(claims, "", "none", headers={"kid": kid}),
        jwt.encode(claims, "another key, which is as long as it needs to be", "HS256", headers={"kid": kid}),
        jwt.encode(claims, "another key, which is as long as it needs to be", "HS256", headers={"kid": "other"}),
        access[:-2] + ("AA" if access[-2:] != "AA" else "BB"),
        "not.a.token",
        "\xff",
    ]
    for token in forged:
        response = account.platform.client.get(
            "/api/auth/me", headers={"Authorization": f"Bearer {token}".encode("latin-1")}
        )
        assert code_of(response) == (401, "UNAUTHENTICATED")
        assert response.headers["www-authenticate"] == "Bearer"


def test_tokens_are_shown_once_used_listed_and_revoked(account) -> None:
    made = account.request("POST", "/api/auth/tokens", json={"name": "ci"})
    token = made.json()["data"]
    assert made.status_code == 201
    assert made.headers["location"] == f"/api/auth/tokens/{token['id']}"
    client = account.platform.client
    assert client.get("/api/auth/me", headers=bearer(token["token"])).json()["data"]["id"] == account.user_id
    listed = account.request("GET", "/api/auth/tokens")
    assert token["token"] not in listed.text
    assert listed.json()["data"][0]["lastUsedAt"] is not None
    [stored] = account.platform.backends.database.fetch_values(str, "SELECT t::text FROM api_tokens t")
    assert token["token"] not in stored

    assert account.request("DELETE", f"/api/auth/tokens/{token['id']}").status_code == 204
    assert code_of(client.get("/api/auth/me", headers=bearer(token["token"]))) == (401, "UNAUTHENTICATED")


def test_a_token_past_its_time_is_expired(account) -> None:
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    token = account.request("POST", "/api/auth/tokens", json={"name": "ci", "expiresAt": soon}).json()["data"]["token"]
    with account.platform.backends.database.transaction() as connection:
        connection.execute("UPDATE api_tokens SET expires_at = now() - interval '1 second'")
    assert code_of(account.platform.client.get("/api/auth/me", headers=bearer(token))) == (401, "TOKEN_EXPIRED")


def make_token(account, headers: dict[str, str], **body: Any) -> Any:
    return account.platform.client.post("/api/auth/tokens", headers=headers, json={"name": "made", **body})


def test_a_token_ends_no_later_than_the_token_that_made_it(account) -> None:
    end = datetime.now(UTC) + timedelta(hours=1)
    parent = make_token(account, account.headers, expiresAt=end.isoformat()).json()["data"]
    child = make_token(account, bearer(parent["token"]))
    assert child.json()["data"]["expiresAt"] == parent["expiresAt"]
    earlier = (end - timedelta(minutes=5)).isoformat()
    shorter = make_token(account, bearer(child.json()["data"]["token"]), expiresAt=earlier).json()["data"]
    assert shorter["expiresAt"] < parent["expiresAt"]
    later = make_token(account, bearer(shorter["token"]), expiresAt=end.isoformat())
    assert code_of(later) == (422, "VALIDATION_ERROR")
    assert [field["field"] for field in later.json()["error"]["details"]["fields"]] == ["expiresAt"]


def test_a_token_is_revoked_with_the_token_that_made_it(account) -> None:
    client = account.platform.client
    parent = make_token(account, account.headers).json()["data"]
    child = make_token(account, bearer(parent["token"])).json()["data"]
    grandchild = make_token(account, bearer(child["token"])).json()["data"]
    other = make_token(account, account.headers).json()["data"]
    ticket = client.post("/api/auth/stream-tickets", headers=bearer(grandchild["token"]), json={}).json()["data"]
    assert account.request("DELETE", f"/api/auth/tokens/{parent['id']}").status_code == 204
    for made in (child, grandchild):
        assert code_of(client.get("/api/auth/me", headers=bearer(made["token"]))) == (401, "UNAUTHENTICATED")
        assert code_of(account.request("GET", f"/api/auth/tokens/{made['id']}")) == (404, "NOT_FOUND")
        assert code_of(account.request("DELETE", f"/api/auth/tokens/{made['id']}")) == (404, "NOT_FOUND")
    assert code_of(client.get(f"/api/events/stream?ticket={ticket['ticket']}")) == (401, "UNAUTHENTICATED")
    listed = account.request("GET", "/api/auth/tokens?total=true").json()
    assert [token["id"] for token in listed["data"]] == [other["id"]]
    assert listed["meta"]["pagination"]["total"] == 1


def test_a_child_that_is_made_while_its_parent_is_revoked_is_revoked_too(account) -> None:
    backends = account.platform.backends
    parent = make_token(account, account.headers).json()["data"]
    child = make_token(account, bearer(parent["token"])).json()["data"]
    # As if the insertion had been committed after the parent's revocation: its row says nothing of one.
    with backends.database.transaction() as connection:
        connection.execute("UPDATE api_tokens SET revoked_at = now() WHERE id = %s", (parent["id"],))
    rights = StreamRightsRepository(backends.database).read(
        token_ids=[child["id"]], session_ids=[], user_ids=[], deployment_ids=[], now=datetime.now(UTC)
    )
    assert rights.tokens == frozenset()
    assert code_of(account.platform.client.get("/api/auth/me", headers=bearer(child["token"]))) == (
        401,
        "UNAUTHENTICATED",
    )


REFUSED_TOKENS: list[tuple[dict[str, Any], set[str]]] = [
    ({"name": "", "scopes": ["everything"], "expiresAt": "2020-01-01T00:00:00Z"}, {"name", "scopes", "expiresAt"}),
    ({"name": "x", "expiresAt": "2999-01-01T00:00:00"}, {"expiresAt"}),
    ({"name": "x", "expiresAt": "tomorrow", "scopes": [1]}, {"expiresAt", "scopes[0]"}),
]


def test_tokens_that_are_refused(account) -> None:
    for body, fields in REFUSED_TOKENS:
        response = account.request("POST", "/api/auth/tokens", json=body)
        assert response.status_code == 422
        assert {field["field"] for field in response.json()["error"]["details"]["fields"]} == fields


def test_scopes_limit_a_token_and_what_it_can_give(account) -> None:
    scopes = ["project:read", "deploy:read"]
    made = account.request("POST", "/api/auth/tokens", json={"name": "ci", "scopes": scopes}).json()["data"]
    client, headers = account.platform.client, bearer(made["token"])
    project_id = account.project()["id"]
    assert client.get(f"/api/projects/{project_id}", headers=headers).status_code == 200
    refused = client.delete(f"/api/projects/{project_id}", headers=headers)
    assert code_of(refused) == (403, "FORBIDDEN")
    assert refused.json()["error"]["details"]["permission"] == "project:delete"
    assert code_of(client.post("/api/projects", headers=headers, json={"name": "x"})) == (403, "FORBIDDEN")
    assert code_of(client.get("/api/auth/tokens", headers=headers)) == (403, "FORBIDDEN")

    for scopes in ([], ["project:write"]):
        more = client.post("/api/auth/tokens", headers=headers, json={"name": "x", "scopes": scopes})
        assert code_of(more) == (403, "SCOPE_ESCALATION")
    less = client.post("/api/auth/tokens", headers=headers, json={"name": "x", "scopes": ["deploy:read"]})
    assert less.status_code == 201
    narrow = bearer(less.json()["data"]["token"])
    assert code_of(client.get(f"/api/projects/{project_id}", headers=narrow)) == (404, "NOT_FOUND")


def test_the_owner_of_the_first_run_is_made_once(platform) -> None:
    owner = platform.services.accounts.ensure_owner("root@example.com")
    again = platform.services.accounts.ensure_owner("root@example.com")
    assert owner.password is not None
    assert (again.user_id, again.password) == (owner.user_id, None)
    response = platform.client.post("/api/auth/login", json={"email": "root@example.com", "password": owner.password})
    token = response.json()["data"]["accessToken"]
    health = platform.client.get("/api/health", headers=bearer(token)).json()
    # What a dependency on a busy machine takes a second to answer counts as no answer.
    shown = health["data"] if health["ok"] else health["error"]["details"]
    assert {check["name"] for check in shown["dependencies"]} == {"database", "queue", "objectStore"}
