"""Logs in the object store, through the API: the same answers, and 503 while the store is down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.logs import LogEntry, LogLine
from shared.errors import PlatformError
from shared.logs.archive.compactor import LogCompactor
from shared.settings import ObjectStoreSettings
from shared.stack.object_store import ObjectStorePorts, ObjectStoreServer
from shared.storage.object_store import S3ArtifactStore
from tests.support.api_platform import Account, Platform
from tests.support.log_rows import end, eventually, line, status
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ObjectStoreServer]:
    """A server that this test may stop."""
    server = ObjectStoreServer(
        tmp_path / "object-store", ports=ObjectStorePorts(*free_ports(8)), access_key="tests", secret_key="s" * 40
    )
    try:
        server.start()
        server.wait(120)
        yield server
    finally:
        server.stop()


@pytest.fixture
def object_store_settings(own_server: ObjectStoreServer) -> ObjectStoreSettings:
    return own_server.settings()


def finished_log(platform: Platform, account: Account, project: str) -> str:
    """A deployment of the account whose log has ended."""
    made = account.request("POST", "/api/deployments", json={"projectId": account.project(project)["id"]})
    assert made.status_code == 201, made.text
    deployment_id = made.json()["data"]["id"]
    entries: list[LogEntry] = [status("building")]
    entries += [line(f"{number} " + "x" * 200) for number in range(3000)]
    entries.append(LogLine(timestamp=1, stage="build", stream="stderr", text="one ", continued=True))
    entries += [LogLine(timestamp=1, stage="build", stream="stderr", text="line"), status("ready"), end()]
    with platform.backends.database.transaction() as connection:
        platform.backends.log_store.append(connection, deployment_id, entries, fence=None)
    return deployment_id


def answers(account: Account, deployment_id: str) -> list[Any]:
    """What clients get of the log, in every form."""
    path = f"/api/deployments/{deployment_id}/logs"
    found: list[Any] = []
    for query in ({"limit": 1000}, {"limit": 1000, "direction": "backward"}, {"stage": "build", "after": 2500}):
        response = account.request("GET", path, params=query)
        assert response.status_code == 200, response.text
        found.append([response.json()["data"], response.json()["meta"]["pagination"]])
    text = account.request("GET", path, params={"after": 2990, "limit": 1000}, headers={"Accept": "text/plain"})
    found.append(text.text)
    stream = account.request("GET", path + "/stream", params={"after": 5})
    events = [event for event in stream.text.split("\n\n") if "event: " in event]
    # How entries are cut into events may differ, not what is in them.
    found.append("".join(event.partition("data: ")[2] for event in events).replace(']}{"lines":[', ","))
    assert events[-1].partition("data: ")[2].startswith('{"status":"ready"')
    found.append(account.request("GET", path + "/stream", headers={"Last-Event-ID": "999999"}).status_code)
    return found


def test_an_archived_log_is_answered_as_before(
    platform: Platform, account: Account, own_server: ObjectStoreServer, tmp_path: Path
) -> None:
    database = platform.backends.database
    deployment_id, unread_id = (finished_log(platform, account, name) for name in ("site", "unread"))
    before = answers(account, deployment_id)
    start, rest = before[1][0][1], before[1][0][0]
    assert (start["text"], start["continued"], rest["text"]) == ("one ", True, "line")
    assert "continued" not in rest
    assert before[3].endswith("one line\n")

    compactor = LogCompactor(
        database=database,
        store=S3ArtifactStore(own_server.settings(), retry_seconds=0.2),
        directory=tmp_path / "archives",
        after_seconds=0.0,
    )
    own_server.stop()
    with pytest.raises(PlatformError):
        compactor.compact(deployment_id)
    assert answers(account, deployment_id) == before, "nothing was moved"
    own_server.start()
    own_server.wait(120)

    def are_moved() -> bool:
        # The server may answer a while before it can store anything.
        try:
            compactor.compact(deployment_id)
            compactor.compact(unread_id)
        except PlatformError:
            return False
        return not database.exists("SELECT 1 FROM log_chunks")

    eventually(are_moved, 60)
    assert answers(account, deployment_id) == before

    own_server.stop()
    path = f"/api/deployments/{unread_id}/logs"
    response = account.request("GET", path)
    assert response.status_code == 503, response.text
    assert response.json()["error"]["code"] == "UNAVAILABLE"
    assert "object store" in response.json()["error"]["message"]
    assert int(response.headers["Retry-After"]) > 0
    own_server.start()
    own_server.wait(120)
    eventually(lambda: account.request("GET", path).status_code == 200, 60)
    assert answers(account, unread_id)[:4] == before[:4]
