"""`cloudify admin create-owner`: how an installation gets its first account, as registration is closed."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
from click.testing import CliRunner, Result

from api.cli.commands.processes import admin
from api.first_run import prepare
from schemas.accounts import CreateTokenRequest
from shared.accounts.api_tokens import token_hash
from shared.accounts.token_repository import TokenRepository
from shared.accounts.token_service import MAXIMUM_TOKENS
from shared.settings import Settings
from shared.stack.home import read_private

PASSWORD = "correct horse battery"


@pytest.fixture
def create_owner(settings: Settings) -> Any:
    store = settings.object_store
    environment = {
        **{name: "" for name in os.environ if name.startswith("CLOUDIFY_")},
        "CLOUDIFY_DATABASE_URL": settings.database.url,
        "CLOUDIFY_REDIS_URL": settings.queue.redis_url,
        "CLOUDIFY_S3_ENDPOINT": store.endpoint,
        "CLOUDIFY_S3_ACCESS_KEY": store.access_key,
        "CLOUDIFY_S3_SECRET_KEY": store.secret_key,
        "CLOUDIFY_SECRET_KEY": settings.secrets.secret_key.decode(),
        "CLOUDIFY_ENCRYPTION_KEYS": "k1:" + base64.b64encode(settings.secrets.encryption_keys["k1"]).decode(),
    }

    def run(email: str, stdin: str) -> Result:
        return CliRunner().invoke(admin, ["create-owner", email], input=stdin, env=environment)

    return run


def test_an_owner_is_made_once_and_signs_in(platform: Any, create_owner: Any) -> None:
    made = create_owner("Root@example.com ", f"{PASSWORD}\n")
    assert made.exit_code == 0, made.output
    token = made.stdout.strip()
    answer = platform.client.get("/api/auth/me", headers={"Authorization": f"Bearer {token}"})
    assert (answer.json()["data"]["email"], answer.json()["data"]["plan"]) == ("root@example.com", "ENTERPRISE")
    signed_in = platform.client.post("/api/auth/login", json={"email": "root@example.com", "password": PASSWORD})
    assert signed_in.status_code == 200
    body = {"name": "x", "repositoryUrl": "file:///srv/site"}
    headers = {"Authorization": f"Bearer {token}"}
    assert platform.client.post("/api/projects", json=body, headers=headers).status_code == 201

    again = create_owner("root@example.com", "another correct horse\n")
    assert (again.exit_code, "exists already, and nothing was changed" in again.stderr) == (1, True)
    assert again.stdout == ""
    signed_in = platform.client.post("/api/auth/login", json={"email": "root@example.com", "password": PASSWORD})
    assert signed_in.status_code == 200


@pytest.mark.parametrize(
    ("email", "stdin", "problem"),
    [("nobody", f"{PASSWORD}\n", "email must be"), ("a@example.com", "short\n", "password must have"),
     ("a@example.com", "", "password must have")],
)  # fmt: skip
def test_invalid_input_is_named(platform: Any, create_owner: Any, email: str, stdin: str, problem: str) -> None:
    done = create_owner(email, stdin)
    assert (done.exit_code, problem in done.stderr, done.stdout) == (1, True, "")


def test_an_account_of_somebody_else_is_not_made_the_owner(platform: Any) -> None:
    """With open registration a stranger could take the address of the first run's owner before it runs."""
    from shared.errors import Forbidden

    platform.register("owner@localhost")
    with pytest.raises(Forbidden, match="create-owner"):
        platform.services.accounts.ensure_owner("owner@localhost")


def test_the_first_run_has_a_token_whatever_tokens_the_owner_has(platform: Any, settings: Settings) -> None:
    prepare(settings)
    first = read_private(settings.directories.home / "credentials.json")
    owner = platform.services.accounts.ensure_owner("owner@localhost")
    tokens = platform.services.tokens
    made = [tokens.create(owner.user_id, CreateTokenRequest(name="x")).token for _ in range(MAXIMUM_TOKENS - 1)]
    (settings.directories.home / "credentials.json").unlink()
    prepare(settings)
    second = read_private(settings.directories.home / "credentials.json")
    # The lost one has made room; no other one has ended.
    find = TokenRepository(platform.backends.database).find_active
    assert [find(token_hash(token)) is None for token in (first["token"], second["token"], *made)] == (
        [True] + [False] * MAXIMUM_TOKENS
    )
    prepare(settings)
    assert read_private(settings.directories.home / "credentials.json") == second
