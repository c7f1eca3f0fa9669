"""`cloudify events` reports every change although processes are killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from shared.logs.account_events import AccountEventStore
from tests.support.repositories import make_repository
from tests.support.running_platform import Platform, is_running, wait_for
from tests.support.sites import BUILD, HOLD, node_site

pytestmark = pytest.mark.e2e


class Events:
    """The command with --json, in a process of its own."""

    def __init__(self, platform: Platform, directory: Path, *arguments: str) -> None:
        self._path = directory / f"events-{len(list(directory.iterdir()))}.jsonl"
        environment = {
            **platform.environment,
            "HOME": str(directory),
            "CLOUDIFY_API_URL": platform.api_url,
            "CLOUDIFY_TOKEN": platform.client.headers["Authorization"].removeprefix("Bearer "),
        }
        with self._path.open("wb") as output:
            self.process = subprocess.Popen(
                [*platform.command, "events", "--json", *arguments], env=environment, stdout=output, cwd=directory
            )

    def all(self) -> list[dict[str, Any]]:
        whole = self._path.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def changes(self) -> list[dict[str, Any]]:
        return [event for event in self.all() if event["event"] == "status"]


@contextlib.contextmanager
def following(platform: Platform, directory: Path, *arguments: str) -> Generator[Events]:
    events = Events(platform, directory, *arguments)
    try:
        wait_for(events.all, what="the stream is ready")
        assert events.all()[0]["event"] == "ready"
        yield events
        events.process.send_signal(signal.SIGINT)
        assert events.process.wait(60) == 130
    finally:
        events.process.kill()
        events.process.wait()


def stored(platform: Platform, project_id: str) -> list[tuple[str, str, int | None]]:
    """Deployment, status and attempt of each change, as the database has them."""
    with platform.database() as database:
        tenant_id = database.fetch_value(str, "SELECT tenant_id FROM projects WHERE id = %(id)s", {"id": project_id})
        assert tenant_id is not None
        page = AccountEventStore(database).read({tenant_id: 0}, limit=1000)[tenant_id]
    return [(event.deployment_id, event.change.status, event.change.attempt) for event in page.events]


def seen(changes: list[dict[str, Any]]) -> list[tuple[str, str, int | None]]:
    return [(change["deploymentId"], change["status"], change.get("attempt")) for change in changes]


def test_each_change_once_while_processes_are_killed(platform: Platform, repositories: Path, tmp_path: Path):
    directory = tmp_path / "client"
    directory.mkdir()
    good = make_repository(repositories / "good", node_site("followed", before=HOLD))
    bad = make_repository(repositories / "bad", node_site("never", before="process.exit(3);"))
    with following(platform, directory) as events:
        project = platform.create_project("followed", good, **BUILD)
        ready = platform.create_deployment(project["id"])["id"]
        platform.wait_held(ready)
        wait_for(lambda: "building" in [change["status"] for change in events.changes()], what="it is told of")
        former = psutil.Process(platform.pid("valkey"))
        platform.kill("api")
        platform.kill("valkey")
        wait_for(lambda: not is_running(former), what="it is killed")
        assert platform.release_and_finish(ready)["status"] == "ready"

        former = psutil.Process(platform.pid("api"))
        os.kill(former.pid, signal.SIGTERM)
        wait_for(lambda: not is_running(former), what="the API has stopped")
        other = wait_for(lambda: create(platform, "ill-fated", bad), what="the API is back")
        assert other is not None
        failed = platform.create_deployment(other["id"])["id"]
        assert platform.finish(failed)["status"] == "failed"

        expected = stored(platform, project["id"])
        wait_for(lambda: len(events.changes()) >= len(expected), what="all changes have come")
        assert seen(events.changes()) == expected
        of_ready = [status for deployment, status, _ in expected if deployment == ready]
        assert of_ready[0] == "queued"
        assert of_ready[-1] == "ready"
        assert of_ready.count("ready") == 1
        last = events.changes()[-1]
        assert (last["deploymentId"], last["status"], last["error"]["code"]) == (failed, "failed", "COMMAND_FAILED")
        assert any("followed" in change.get("url", "") for change in events.changes())
        # The same once more, from where the first began.
        with following(platform, directory, "--after", events.all()[0]["id"]) as again:
            wait_for(lambda: len(again.changes()) >= len(expected), what="all changes have come again")
            assert again.changes() == events.changes()


def create(platform: Platform, name: str, repository: str) -> dict[str, Any] | None:
    with contextlib.suppress(httpx.HTTPError, AssertionError):  # it may be away
        return platform.create_project(name, repository, **BUILD)
    return None
