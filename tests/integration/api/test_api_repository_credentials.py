from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa

from shared.accounts.permissions import Role
from shared.db.database import Database
from shared.errors import PlatformError
from shared.projects.credential_repository import RepositoryCredentialRepository
from shared.projects.credential_service import RepositoryCredentialService
from shared.projects.repository_credentials import RepositoryCredentials
from shared.projects.variable_service import Rotation
from shared.secrets_box import SecretsBox
from tests.support.ssh_server import make_key

TOKEN = "ghp_s3cret-t0ken"
PRIVATE, PUBLIC = make_key()


def path_of(project: dict[str, Any]) -> str:
    return f"/api/projects/{project['id']}/repository-credentials"


def service_of(account: Any, keys: dict[str, bytes]) -> RepositoryCredentialService:
    database = account.platform.backends.database
    repository = RepositoryCredentialRepository(database)
    return RepositoryCredentialService(database=database, credentials=repository, box=SecretsBox(keys))


def ssh_project(account: Any) -> dict[str, Any]:
    body = {"name": "site", "repositoryUrl": "git@git.example.com:team/site.git"}
    return account.request("POST", "/api/projects", json=body).json()["data"]


def dump_of(database: Database) -> str:
    tables = ("projects", "deployments", "repository_credentials", "idempotency_keys")
    names = database.fetch_values(
        str,
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' AND table_name = ANY(%(t)s)",
        {"t": list(tables)},
    )
    return "".join(
        "".join(database.fetch_values(str, f"SELECT t::text FROM {name} t"))  # type: ignore[arg-type]
        for name in names
    )


def test_a_token_is_set_shown_without_itself_and_removed(account, settings) -> None:
    project = account.project()
    path = path_of(project)
    assert account.request("GET", path).status_code == 404
    for username in ("oauth2", None):
        body = {"kind": "token", "token": TOKEN} | ({"username": username} if username else {})
        answer = account.request("PUT", path, json=body)
        assert answer.status_code == 200, answer.text
        shown = answer.json()["data"]
        assert shown.pop("updatedAt")
        assert shown == {
            "kind": "token", "host": "https://git.example.com:443", "username": username,
            "fingerprint": None, "publicKey": None,
        }  # fmt: skip
        assert TOKEN not in answer.text + account.request("GET", path).text
        opened = service_of(account, settings.secrets.encryption_keys).open_for(project["id"])
        assert opened == RepositoryCredentials("token", shown["host"], username or "x-access-token", TOKEN)
        assert TOKEN not in repr(opened)
    assert TOKEN not in dump_of(account.platform.backends.database)
    assert account.request("DELETE", path).status_code == 204
    assert account.request("DELETE", path).status_code == 404


def test_a_deploy_key_is_known_by_its_public_half(account, settings) -> None:
    project = ssh_project(account)
    answer = account.request("PUT", path_of(project), json={"kind": "sshKey", "privateKey": PRIVATE})
    assert answer.status_code == 200, answer.text
    shown = answer.json()["data"]
    assert (shown["publicKey"], shown["host"]) == (PUBLIC, "ssh://git.example.com:22")
    assert shown["fingerprint"].startswith("SHA256:")
    assert PRIVATE.splitlines()[1] not in answer.text
    credentials = service_of(account, settings.secrets.encryption_keys).open_for(project["id"])
    assert credentials is not None
    assert credentials.private_key.splitlines()[0] == "-----BEGIN OPENSSH PRIVATE KEY-----"
    # Setting them again forgets the host's key.
    repository = RepositoryCredentialRepository(account.platform.backends.database)
    assert repository.pin_host_key(project["id"], "git.example.com:22", "ssh-ed25519 A") == "ssh-ed25519 A"
    assert repository.pin_host_key(project["id"], "git.example.com:22", "ssh-ed25519 B") == "ssh-ed25519 A"
    account.request("PUT", path_of(project), json={"kind": "sshKey", "privateKey": PRIVATE})
    assert repository.find_host_key(project["id"], "git.example.com:22") is None


def pem(key: Any, kind: serialization.PrivateFormat, password: bytes | None = None) -> str:
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, kind, encryption).decode()


def test_keys_of_every_format_become_openssh_ones(account) -> None:
    path = path_of(ssh_project(account))
    rsa_key = rsa.generate_private_key(65537, 2048)
    keys = [
        pem(ed25519.Ed25519PrivateKey.generate(), serialization.PrivateFormat.PKCS8),
        pem(ec.generate_private_key(ec.SECP256R1()), serialization.PrivateFormat.TraditionalOpenSSL),
        pem(rsa_key, serialization.PrivateFormat.TraditionalOpenSSL).replace("\n", "\r\n"),
    ]
    for key in keys:
        answer = account.request("PUT", path, json={"kind": "sshKey", "privateKey": key})
        assert answer.status_code == 200, answer.text


def refused_keys() -> list[tuple[str, str]]:
    openssh = serialization.PrivateFormat.OpenSSH
    pkcs8 = serialization.PrivateFormat.PKCS8
    key = ed25519.Ed25519PrivateKey.generate()
    return [
        (PUBLIC, "public half"),
        ("hello", "not a private key"),
        (PRIVATE[:100], "damaged"),
        (pem(key, pkcs8, b"password"), "passphrase"),
        (pem(rsa.generate_private_key(65537, 1024), openssh), "1024 bits"),
        (pem(dsa.generate_private_key(1024), pkcs8), "Ed25519, ECDSA or RSA"),
        (pem(ec.generate_private_key(ec.SECP256K1()), pkcs8), "SSH doesn't support"),
        ("-----BEGIN " + "A" * 40_000, "32 KiB"),
    ]  # fmt: skip


def test_keys_that_are_refused(account) -> None:
    path = path_of(ssh_project(account))
    for key, said in refused_keys():
        answer = account.request("PUT", path, json={"kind": "sshKey", "privateKey": key})
        assert answer.status_code == 422, answer.text
        [field] = answer.json()["error"]["details"]["fields"]
        assert (field["field"], said in field["message"]) == ("privateKey", True), field
        assert key.strip().splitlines()[-1] not in answer.text


REFUSED: list[tuple[dict[str, Any], set[str]]] = [
    ({"kind": "password", "token": "x"}, {"kind"}),
    ({"kind": "token"}, {"token"}),
    ({"kind": "token", "token": "a b", "username": "a:b"}, {"token", "username"}),
    ({"kind": "token", "token": "x\n", "privateKey": "y"}, {"token", "privateKey"}),
    ({"kind": "token", "token": "x" * 4097}, {"token"}),
    ({"kind": "sshKey", "token": "x", "username": "y"}, {"privateKey", "token", "username"}),
    ({"kind": "sshKey", "privateKey": PRIVATE}, {"kind"}),
]


def test_fields_that_do_not_fit_are_named(account) -> None:
    path = path_of(account.project())
    for body, fields in REFUSED:
        answer = account.request("PUT", path, json=body)
        assert answer.status_code == 422, body
        assert {field["field"] for field in answer.json()["error"]["details"]["fields"]} == fields
    bare = account.request("POST", "/api/projects", json={"name": "bare"}).json()["data"]
    answer = account.request("PUT", path_of(bare), json={"kind": "token", "token": "x"})
    assert "repositoryUrl first" in answer.text
    over_ssh = account.request("PUT", path_of(ssh_project(account)), json={"kind": "token", "token": "x"})
    assert "is for https://" in over_ssh.text


def test_credentials_in_an_address_are_moved_out_of_it(account, settings) -> None:
    database = account.platform.backends.database
    service = service_of(account, settings.secrets.encryption_keys)
    body = {"name": "x", "repositoryUrl": f"https://user:{TOKEN}@Git.example.com/team/site.git"}
    project = account.request("POST", "/api/projects", json=body).json()["data"]
    stored = database.fetch_values(str, "SELECT repository_url FROM projects")
    assert stored == ["https://git.example.com/team/site.git"]
    assert service.open_for(project["id"]) == RepositoryCredentials(
        "token", "https://git.example.com:443", "user", TOKEN
    )
    assert account.request("GET", path_of(project)).json()["data"]["username"] == "user"
    deployment = account.request("POST", "/api/deployments", json={"projectId": project["id"]})
    assert deployment.status_code in (201, 202), deployment.text
    # A token alone is a user without a password; an address without credentials leaves those that there are.
    for address in (f"https://{TOKEN}@git.example.com/y.git", "https://git.example.com/z.git"):
        answer = account.request("PATCH", f"/api/projects/{project['id']}", json={"repositoryUrl": address})
        assert answer.status_code == 200
        assert TOKEN not in answer.text
        assert service.open_for(project["id"]) == RepositoryCredentials("token", "https://git.example.com:443", TOKEN)
    assert account.request("GET", path_of(project)).json()["data"]["username"] is None
    assert TOKEN not in dump_of(database)
    # The project of somebody else is neither changed nor given credentials.
    eve = account.platform.register("eve@example.com")
    stolen = eve.request(
        "PATCH", f"/api/projects/{project['id']}", json={"repositoryUrl": "https://a:b@evil.example/x"}
    )
    assert stolen.status_code == 404
    assert service.open_for(project["id"]) == RepositoryCredentials("token", "https://git.example.com:443", TOKEN)


def test_an_address_that_was_stored_with_credentials_loses_them(account) -> None:
    database = account.platform.backends.database
    stored = f"https://user:{TOKEN}@git.example.com/site.git"
    for method, body in (("PUT", {"kind": "token", "token": "new"}), ("DELETE", None)):
        project = account.project(method.lower())
        with database.transaction() as connection:
            connection.execute("UPDATE projects SET repository_url = %s WHERE id = %s", [stored, project["id"]])
        assert account.request(method, path_of(project), json=body).status_code in (200, 204)
        assert TOKEN not in dump_of(database)


def test_rotation_covers_them(account, settings) -> None:
    project = account.project()
    account.request("PUT", path_of(project), json={"kind": "token", "token": TOKEN})
    [(old, key)] = settings.secrets.encryption_keys.items()
    lost = service_of(account, {"new": b"n" * 32}).rotate_keys()
    assert lost == Rotation(0, (f"repository credentials of {project['id']}",))
    assert service_of(account, {"new": b"n" * 32, old: key}).rotate_keys() == Rotation(1, ())
    assert service_of(account, {"new": b"n" * 32, old: key}).rotate_keys() == Rotation(0, ())
    opened = service_of(account, {"new": b"n" * 32}).open_for(project["id"])
    assert opened is not None
    assert opened.password == TOKEN


def test_a_row_that_is_changed_in_the_database_opens_no_more(account, settings) -> None:
    project = account.project()
    account.request("PUT", path_of(project), json={"kind": "token", "token": TOKEN})
    with account.platform.backends.database.transaction() as connection:
        connection.execute("UPDATE repository_credentials SET origin = 'https://evil.example:443'")
    with pytest.raises(PlatformError, match="credentials can't be read"):
        service_of(account, settings.secrets.encryption_keys).open_for(project["id"])


@pytest.mark.parametrize(("role", "status"), [(Role.DEVELOPER, 403), (Role.ADMIN, 200)])
def test_only_permitted_roles_set_them(account, register, role: Role, status: int) -> None:
    project = account.project()
    eve = register("eve@example.com")
    body = {"kind": "token", "token": TOKEN}
    assert eve.request("PUT", path_of(project), json=body).status_code == 404
    eve.join(account, role)
    assert eve.request("PUT", path_of(project), json=body).status_code == status
