"""Shared by tests of the log: a deployment to write to, and lines to write."""

from __future__ import annotations

import time
from collections.abc import Callable

from schemas.logs import LogEnd, LogEntry, LogLine, LogStatus
from shared.db.database import Database
from shared.identifiers import new_identifier
from shared.logs.base import NumberedEntry


def new_deployment(database: Database) -> str:
    tenant, project, deployment = (new_identifier(prefix) for prefix in ("ten", "proj", "depl"))
    with database.transaction() as connection:
        connection.execute("INSERT INTO tenants (id, name) VALUES (%s, 'T')", (tenant,))
        connection.execute(
            "INSERT INTO projects (id, tenant_id, name, slug) VALUES (%s, %s, 'P', %s)",
            (project, tenant, f"s-{deployment[-12:]}"),
        )
        connection.execute(
            """INSERT INTO deployments (id, tenant_id, project_id, repository_url, branch, release_sequence, host)
            VALUES (%s, %s, %s, 'https://example.org/x.git', 'main', 1, 'h')""",
            (deployment, tenant, project),
        )
    return deployment


def line(text: str, *, stage: str = "build") -> LogLine:
    return LogLine(timestamp=1, stage=stage, stream="stdout", text=text)


def status(name: str = "building") -> LogStatus:
    return LogStatus(timestamp=1, status=name, stage="build", attempt=1)


def end(name: str = "ready") -> LogEnd:
    return LogEnd(timestamp=1, status=name, url="http://s.localhost")


def texts(entries: list[NumberedEntry]) -> list[str]:
    return [numbered.entry.text for numbered in entries if isinstance(numbered.entry, LogLine)]


class RecordingNotifier:
    """Remembers the ranges."""

    def __init__(self) -> None:
        self.notifications: list[tuple[int, int, list[LogEntry]]] = []

    def notify(self, deployment_id: str, first: int, last: int, entries: object) -> None:
        self.notifications.append((first, last, list(entries)))  # type: ignore[call-overload]


TIMEOUT_SECONDS = 120.0


def eventually(condition: Callable[[], bool], seconds: float = TIMEOUT_SECONDS) -> None:
    """Waits for a condition that another thread or server brings about, for as long as a busy machine may need."""
    deadline = time.monotonic() + max(seconds, TIMEOUT_SECONDS)
    while not condition():
        assert time.monotonic() < deadline, "it didn't come about in time"
        time.sleep(0.005)
