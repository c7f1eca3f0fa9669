"""The platform's own keys, printed or stored once in a Secret."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from api.cli.commands.processes import admin
from api.cli.kubernetes_secret import KubernetesError, create_secret, open_api_server
from shared.settings import load_settings
from tests.support.environment import ENVIRONMENT

_KEYS = {"secret-key": "s" * 64, "encryption-keys": "first:k"}


class _ApiServer:
    """Secrets of a namespace, of which only creation is allowed."""

    def __init__(self, status: int = 201, body: object = None) -> None:
        self.requests: list[httpx.Request] = []
        self._status = status
        self._body = body

    def client(self) -> httpx.Client:
        return httpx.Client(base_url="https://kubernetes", transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return httpx.Response(self._status, json=self._body or {})


def test_printed_keys_are_settings() -> None:
    lines = CliRunner().invoke(admin, ["make-keys"]).stdout.splitlines()
    keys = dict(line.split("=", 1) for line in lines)
    settings = load_settings(ENVIRONMENT | keys | {"CLOUDIFY_EXECUTOR": "bubblewrap"})
    assert len(settings.secrets.secret_key) == 64
    assert list(settings.secrets.encryption_keys) == ["first"]
    assert lines != CliRunner().invoke(admin, ["make-keys"]).stdout.splitlines()


def test_one_request_creates_a_secret_that_helm_keeps() -> None:
    server = _ApiServer()
    assert create_secret(server.client(), "system", "keys", _KEYS)
    [request] = server.requests
    assert (request.method, request.url.path) == ("POST", "/api/v1/namespaces/system/secrets")
    secret = json.loads(request.content)
    assert secret["stringData"] == _KEYS
    assert secret["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_a_secret_that_exists_stays() -> None:
    server = _ApiServer(409, {"reason": "AlreadyExists"})
    assert not create_secret(server.client(), "system", "keys", _KEYS)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "body"), [(403, {"reason": "Forbidden"}), (409, {"reason": "Conflict"}), (200, {}), (500, [])]
)
def test_any_other_answer_is_a_failure_without_the_keys(status: int, body: object) -> None:
    with pytest.raises(KubernetesError) as failed:
        create_secret(_ApiServer(status, body).client(), "system", "keys", _KEYS)
    assert _KEYS["secret-key"] not in str(failed.value)
    assert str(status) in str(failed.value)


def test_outside_of_a_pod_there_is_no_api_server(tmp_path: Path) -> None:
    with pytest.raises(KubernetesError, match="no pod"):
        open_api_server({}, tmp_path)
    refused = CliRunner().invoke(admin, ["make-keys", "--kubernetes-secret", "keys"])
    assert refused.exit_code == 1
    assert "no pod" in refused.output
