"""`cloudify settings`, with an API that answers from memory."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from api.cli.main import cli

NOW = "2026-01-01T00:00:00Z"


class Api(httpx.BaseTransport):
    """One project, and the changes that were asked for."""

    def __init__(self) -> None:
        self.changes: list[dict[str, Any]] = []
        self.project: dict[str, Any] = {
            "id": "proj_1", "name": "site", "slug": "site", "repositoryUrl": None, "repositoryBranch": "main",
            "rootDirectory": ".", "framework": None, "installCommand": None, "buildCommand": "make",
            "outputDirectory": None, "nodeVersion": None, "url": "http://site.localhost:8080", "isPinned": False,
            "activeDeploymentId": None, "createdAt": NOW, "updatedAt": NOW,
        }  # fmt: skip

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "PATCH":
            self.changes.append(json.loads(request.content))
            self.project |= self.changes[-1]
        return httpx.Response(200, json={"ok": True, "data": self.project, "meta": {}})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    for name, value in {"CLOUDIFY_TOKEN": "cfy_secret", "CLOUDIFY_API_URL": "http://127.0.0.1:1"}.items():
        monkeypatch.setenv(name, value)
    return Api()


def run(api: Api, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["settings", *arguments, "--project", "site"], obj=api)


def test_settings_are_listed(api: Api) -> None:
    listed = run(api, "ls").stdout
    assert re.search(r"buildCommand +make\n", listed)
    assert re.search(r"nodeVersion +\(detected\)", listed)
    assert "isPinned" not in listed
    assert json.loads(run(api, "ls", "--json").stdout)["buildCommand"] == "make"


def test_a_setting_is_changed_alone(api: Api) -> None:
    named = run(api, "set", "nodeVersion", "22")
    assert (named.exit_code, "nodeVersion of site is 22;" in named.stderr) == (0, True)
    cleared = run(api, "unset", "buildCommand")
    assert (cleared.exit_code, "buildCommand of site is (detected);" in cleared.stderr) == (0, True)
    # A word, not JSON.
    assert run(api, "set", "buildCommand", "null").exit_code == 0
    assert api.changes == [{"nodeVersion": "22"}, {"buildCommand": None}, {"buildCommand": "null"}]


def test_a_number_is_sent_as_one(api: Api) -> None:
    assert "replicas of site is 2;" in run(api, "set", "replicas", "2").stderr
    assert "runtime of site is pods;" in run(api, "set", "runtime", "pods").stderr
    assert api.changes == [{"replicas": 2}, {"runtime": "pods"}]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("set", "colour", "red"), "There is no setting 'colour'"),
        (("set", "isPinned", "true"), "There is no setting"),
        (("unset", "rootDirectory"), "rootDirectory always has a value."),
        (("unset", "runtime"), "runtime always has a value."),
        (("set", "replicas", "many"), "replicas: Expected `int"),
    ],
)
def test_what_is_no_setting(api: Api, arguments: tuple[str, ...], said: str) -> None:
    result = run(api, *arguments)
    assert (result.exit_code, said in result.stderr) == (2, True)
    assert api.changes == []
