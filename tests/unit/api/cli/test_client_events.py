from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from api.cli.main import cli

Answer = Callable[[httpx.Request], httpx.Response]


def frame(kind: str, data: Any, position: str) -> bytes:
    return f"id: {position}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def change(status: str, position: str, **fields: Any) -> bytes:
    data = {"deploymentId": "depl_1", "projectId": "proj_1", "isPreview": False, "ts": 0, "status": status, **fields}
    return frame("status", data, position)


READY = frame("ready", {}, "p0")


def stream(*pieces: bytes) -> Answer:
    """A connection that sends these and ends; an unfinished event at its end is ignored."""
    return lambda _: httpx.Response(
        200, headers={"Content-Type": "text/event-stream"}, content=b"retry: 100\n\n" + b"".join(pieces)
    )


def broken(_request: httpx.Request) -> httpx.Response:
    raise httpx.ReadError("reset")


def busy(_request: httpx.Request) -> httpx.Response:
    body = {"ok": False, "error": {"code": "UNAVAILABLE", "message": "Away.", "requestId": "r"}}
    return httpx.Response(503, json=body, headers={"Retry-After": "0"})


def refused(_request: httpx.Request) -> httpx.Response:
    body = {"ok": False, "error": {"code": "INVALID_CURSOR", "message": "No such position.", "requestId": "r"}}
    return httpx.Response(400, json=body)


def interrupted(_request: httpx.Request) -> httpx.Response:
    """The user presses Ctrl-C."""
    raise KeyboardInterrupt


class Api(httpx.BaseTransport):
    def __init__(self, *connections: Answer) -> None:
        self._connections: Iterator[Answer] = iter(connections)
        self.positions: list[str | None] = []
        self.projects_asked = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/events/stream":
            self.positions.append(request.url.params.get("after"))
            return next(self._connections)(request)
        self.projects_asked += 1
        if request.url.path != "/api/projects/proj_1":
            body = {"ok": False, "error": {"code": "NOT_FOUND", "message": "There is none.", "requestId": "r"}}
            return httpx.Response(404, json=body)
        project = {
            "id": "proj_1", "name": "Site", "slug": "site", "repositoryUrl": "https://example.com/a.git",
            "repositoryBranch": "main", "rootDirectory": ".", "framework": None, "installCommand": None,
            "buildCommand": None, "outputDirectory": None, "nodeVersion": None, "url": "http://site.localhost",
            "isPinned": False, "activeDeploymentId": None, "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": "2026-01-01T00:00:00Z",
        }  # fmt: skip
        return httpx.Response(200, json={"ok": True, "data": project, "meta": {}})


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDIFY_API_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("CLOUDIFY_TOKEN", "cfy_token")
    monkeypatch.chdir(tmp_path)


def run(api: Api, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["events", *arguments], obj=api)


def test_each_change_is_a_line_whatever_breaks() -> None:
    api = Api(
        stream(READY, change("cloning", "p1", stage="clone", attempt=2), change("building", "p2")[:-5]),
        broken,
        busy,
        stream(READY, change("ready", "p2", url="http://site.localhost")),
        stream(frame("reconnect", {"reason": "max_age"}, "")[4:]),
        stream(
            change("failed", "p3", projectId="proj_gone", isPreview=True,
                   error={"code": "OUT_OF_MEMORY", "stage": "build", "message": "It\x1b[31m took\nmore"}),
            change("cancelled", "p4", projectId="proj_gone", ignored="as before"),
        ),
        interrupted,
    )  # fmt: skip
    result = run(api)
    lines = [line.split("  ", 1)[1] for line in result.stdout.splitlines()]
    assert lines == [
        "site  depl_1  cloning (attempt 2)",
        "site  depl_1  ready http://site.localhost",
        "proj_gone (preview)  depl_1  failed OUT_OF_MEMORY in build: It took",
        "proj_gone  depl_1  cancelled (nothing to build: as before)",
    ]
    assert api.positions == [None, "p1", "p1", "p1", "p2", "p2", "p4"]
    assert api.projects_asked == 2
    assert result.exit_code == 130
    assert "cloudify events --after p4" in result.stderr
    assert result.stderr.count("Following") == 1


def test_json_has_one_object_a_line_with_its_position() -> None:
    error = {"code": "X", "stage": None, "message": "m"}
    api = Api(
        stream(
            READY,
            frame("gap", {"from": 1, "to": 4, "reason": "retention"}, "p1"),
            frame("of-a-newer-server", {}, "p1"),
            change("failed", "p2", error=error),
        ),
        interrupted,
    )
    result = run(api, "--json", "--after", "p&ä")
    assert api.positions == ["p&ä", "p2"]
    common = {"deploymentId": "depl_1", "projectId": "proj_1", "isPreview": False, "ts": 0}
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"event": "ready", "id": "p0"},
        {"event": "gap", "from": 1, "to": 4, "reason": "retention", "id": "p1"},
        {"event": "status", **common, "status": "failed", "error": error, "id": "p2"},
    ]


def test_missed_changes_are_a_warning() -> None:
    gap = frame("gap", {"from": 1, "to": 4, "reason": "retention"}, "p1")
    assert "4 earlier changes are no longer kept" in run(Api(stream(READY, gap), interrupted)).stderr


def test_an_invalid_position_ends_the_command() -> None:
    result = run(Api(refused), "--after", "x")
    assert result.exit_code == 2
    assert "No such position." in result.stderr


def test_an_event_that_cannot_be_read_ends_the_command() -> None:
    result = run(Api(stream(READY, frame("status", {"status": "ready"}, "p1"))))
    assert result.exit_code == 6
    assert "event stream has an event that can't be read" in result.stderr
