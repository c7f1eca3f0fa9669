"""`cloudify queue`, with an API that answers from memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from api.cli.main import cli

JOB = "depl_1:clone"


def pool(name: str, **fields: object) -> dict[str, Any]:
    return {
        "pool": name, "depth": 0, "running": 0, "delayed": 0, "dead": 0, "waitingForSlot": 0, "oldestAgeSeconds": 0.0,
        "isPaused": False, "workers": 1, "threads": 4, "busyThreads": 0, **fields,
    }  # fmt: skip


def process(name: str, **fields: object) -> dict[str, Any]:
    return {
        "id": f"host-{name}", "pool": name, "host": "host", "version": "0.1.0", "state": "running", "reason": None,
        "threads": 4, "busyThreads": 1, "seenAt": "2026-01-01T00:00:00Z", **fields,
    }  # fmt: skip


class Api(httpx.BaseTransport):
    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.deployment: dict[str, Any] | None = None
        self.dead = [
            {"id": JOB, "pool": "clone", "tenantId": "ten_1", "deploymentId": "depl_1", "attempts": 6,
             "reason": "ValueError: \x1b[2Jno", "diedAt": "2026-01-01T00:00:00Z"}
        ]  # fmt: skip

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api")
        self.asked.append((request.method, path, request.url.query.decode()))
        match [request.method, *path.strip("/").split("/")]:
            case ["GET", "admin", "queues"]:
                busy = pool("build", depth=12, oldestAgeSeconds=83.4, running=3, dead=1, busyThreads=3, isPaused=True)
                return ok([busy, pool("clone", workers=0, threads=0)])
            case ["GET", "admin", "workers"]:
                return ok(
                    [
                        process("clone", state="paused", reason="Its clock\x1b[2J is wrong."),
                        process("router", threads=0),
                    ]
                )
            case ["POST", "admin", "queues", name, command]:
                return ok(pool(name, isPaused=command == "pause", depth=2))
            case ["GET", "admin", "jobs"]:
                return ok(self.dead)
            case ["POST", "admin", "jobs", job, "drop"]:
                return ok({"id": job, "state": "dropped"})
            case ["POST", "admin", "jobs", _, "retry"]:
                error = {"code": "ALREADY_FINISHED", "message": "Redeploy it instead.", "requestId": "req-7"}
                return httpx.Response(409, json={"ok": False, "error": error})
            case ["GET", "deployments", _]:
                return ok(self.deployment)
            case _:
                return httpx.Response(404, json={"ok": False, "error": {"code": "NOT_FOUND", "message": "No."}})


def ok(data: object) -> httpx.Response:
    return httpx.Response(200, json={"ok": True, "data": data, "meta": {}})


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def run(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config"), "CLOUDIFY_TOKEN": "cfy_secret",
        "CLOUDIFY_API_URL": "http://127.0.0.1:1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CLOUDIFY_HOME", raising=False)
    return lambda *arguments: CliRunner().invoke(cli, arguments, obj=api)


def test_pools_are_a_table(run: Callable[..., Result]) -> None:
    result = run("queue")
    assert result.exit_code == 0, result.output
    heading, build, clone = (line.split() for line in result.stdout.splitlines())
    assert heading == ["POOL", "STATE", "DEPTH", "OLDEST", "NO", "SLOT", "RUNNING", "DELAYED", "DEAD", "WORKERS",
                       "BUSY"]  # fmt: skip
    assert build == ["build", "paused", "12", "83s", "0", "3", "0", "1", "1", "3/4"]
    assert clone == ["clone", "no", "workers", "0", "-", "0", "0", "0", "0", "0", "0/0"]
    assert json.loads(run("queue", "--json").stdout)["queues"][0]["oldestAgeSeconds"] == 83.4


def test_dead_letters_are_listed_and_harmless(run: Callable[..., Result], api: Api) -> None:
    shown = run("queue", "dead", "--pool", "clone", "--limit", "5").stdout
    assert JOB in shown
    assert "\x1b" not in shown
    assert api.asked[-1] == ("GET", "/admin/jobs", "pool=clone&limit=5")
    assert json.loads(run("queue", "dead", "--json").stdout)["jobs"][0]["id"] == JOB
    assert run("queue", "dead", "--limit", "0").exit_code == 2
    api.dead = []
    assert "no dead letters" in run("queue", "dead").stderr


def test_drop_and_a_refused_retry(run: Callable[..., Result], api: Api) -> None:
    assert f"{JOB} is dropped." in run("queue", "drop", JOB).stderr
    assert json.loads(run("queue", "drop", JOB, "--json").stdout) == {"id": JOB, "state": "dropped"}
    refused = run("queue", "retry", JOB)
    assert refused.exit_code == 1
    assert "Redeploy it instead." in refused.stderr
    assert json.loads(run("queue", "retry", JOB, "--json").stdout)["error"]["code"] == "ALREADY_FINISHED"


def test_pause_and_resume(run: Callable[..., Result], api: Api) -> None:
    assert "build is paused; 2 in line" in run("queue", "pause", "build").stderr
    assert "build hands out jobs" in run("queue", "resume", "build").stderr
    assert [path for _method, path, _query in api.asked] == ["/admin/queues/build/pause", "/admin/queues/build/resume"]
    assert json.loads(run("queue", "pause", "build", "--json").stdout)["isPaused"] is True


@pytest.mark.parametrize(
    ("estimate", "shown"), [([12.4, 90.0], ", starts in 12 to 90 s"), ([3.0, 3.0], ", starts in about 3 s"), (None, "")]
)
def test_inspect_shows_place_reason_and_estimated_start(
    run: Callable[..., Result], api: Api, estimate: list[float] | None, shown: str
) -> None:
    queue = {
        "pool": "clone", "position": 3, "reason": "plan_limit", "holders": ["depl_0"], "estimatedStartSeconds": estimate
    }  # fmt: skip
    api.deployment = {
        "id": "depl_1", "projectId": "proj_1", "project": {"name": "site", "slug": "site"}, "status": "queued",
        "branch": "main", "commitSha": None, "commitMessage": None, "url": None, "buildTimeSeconds": None,
        "isActive": False, "isPreview": False, "createdAt": "2026-01-01T00:00:00Z", "startedAt": None,
        "finishedAt": None, "stages": [], "error": None, "queue": queue, "createdBy": None, "trigger": "api",
    }  # fmt: skip
    result = run("inspect", "depl_1")
    assert result.exit_code == 0, result.output
    assert f"Queue      place 3, plan limit, behind depl_0 (clone){shown}\n" in result.stdout


def test_every_process_is_listed_with_why_it_is_paused(run: Callable[..., Result]) -> None:
    shown = run("workers").stdout
    assert "paused" in shown
    assert "is wrong." in shown
    assert "\x1b[2J" not in shown
    assert [row["pool"] for row in json.loads(run("workers", "--json").stdout)["workers"]] == ["clone", "router"]
