from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any


def count_projects(account) -> int:
    return account.platform.backends.database.fetch_value(int, "SELECT count(*) FROM projects")


def create(account, key: str, name: str = "site") -> Any:
    return account.request("POST", "/api/projects", json={"name": name}, headers={"Idempotency-Key": key})


def test_a_repeat_gets_the_first_answer_and_acts_once(account) -> None:
    first, second = create(account, "k"), create(account, "k")
    assert (first.status_code, second.status_code) == (201, 201)
    assert second.json()["data"] == first.json()["data"]
    assert second.headers["location"] == first.headers["location"]
    assert second.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert count_projects(account) == 1
    assert create(account, "another").json()["data"]["id"] != first.json()["data"]["id"]


def test_the_key_belongs_to_a_user_and_a_body(account, register) -> None:
    create(account, "k")
    mismatch = create(account, "k", "other")
    assert (mismatch.status_code, mismatch.json()["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")
    assert create(register("bob@example.com"), "k").status_code == 201
    assert count_projects(account) == 2


def test_a_refused_request_keeps_no_answer(account) -> None:
    assert create(account, "k", "").status_code == 422
    assert create(account, "k", "site").status_code == 201


def test_twenty_at_once_act_once(account) -> None:
    with ThreadPoolExecutor(20) as executor:
        responses = list(executor.map(lambda _: create(account, "k"), range(20)))
    assert {response.status_code for response in responses} <= {201, 409}
    for response in responses:
        if response.status_code == 409:
            assert response.json()["error"]["code"] == "IDEMPOTENCY_IN_PROGRESS"
    created = [response.json()["data"]["id"] for response in responses if response.status_code == 201]
    assert len(set(created)) == 1
    assert count_projects(account) == 1


def test_a_key_is_free_again_after_a_day(account) -> None:
    create(account, "k")
    with account.platform.backends.database.transaction() as connection:
        connection.execute("UPDATE idempotency_keys SET created_at = now() - interval '24 hours 1 second'")
    assert create(account, "k", "other").status_code == 201
    assert count_projects(account) == 2
    assert create(account, "k", "other").headers["idempotent-replayed"] == "true"


def test_an_overlong_key_is_refused(account) -> None:
    assert create(account, "k" * 255).status_code == 201
    assert create(account, "k" * 256).status_code == 422
