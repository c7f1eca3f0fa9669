"""GET /api/events/stream: the whole API behind a real server, with real PostgreSQL and Redis."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from httpx_sse import ServerSentEvent, connect_sse

from api.app import create_app
from api.backends import connect_backends
from api.edge.server import Server
from api.services import Services, build_services
from api.streams.account_cursor import decode_cursor, encode_cursor
from schemas.logs import LogEnd, LogStatus
from shared.accounts.permissions import Role
from shared.accounts.tenant_repository import TenantRepository
from shared.db.database import Database
from shared.identifiers import new_identifier
from shared.logs.account_events import AccountEventStore
from shared.logs.notifier import RedisNotifier
from shared.logs.store import PostgresLogStore
from shared.settings import QueueSettings, Settings
from shared.stack.valkey import ValkeyServer
from tests.support.log_rows import eventually
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration

PASSWORD = "correct horse battery"


class Stream:
    """Reads in a thread until it ends or `leave` is called."""

    def __init__(self, url: str, headers: dict[str, str], **query: str) -> None:
        self.events: list[ServerSentEvent] = []
        self.status = 0
        self.body = b""
        self._client = httpx.Client(timeout=120, trust_env=False)
        self._leaving = threading.Event()
        self._arguments = (url, headers, query)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        url, headers, query = self._arguments
        try:
            with connect_sse(self._client, "GET", url, headers=headers, params=query) as source:
                self.status = source.response.status_code
                if self.status != 200:
                    self.body = source.response.read()
                    return
                for event in source.iter_sse():
                    self.events.append(event)
                    if self._leaving.is_set():
                        return
        except httpx.HTTPError:
            if not self._leaving.is_set():
                raise
        finally:
            self._client.close()

    def of(self, *kinds: str) -> list[ServerSentEvent]:
        return [event for event in list(self.events) if event.event in kinds]

    @property
    def changes(self) -> list[dict[str, Any]]:
        return [json.loads(event.data) for event in self.of("status")]

    @property
    def statuses(self) -> list[str]:
        return [change["status"] for change in self.changes]

    @property
    def last_id(self) -> str:
        return [event.id for event in list(self.events) if event.id][-1]

    def ready(self) -> Stream:
        eventually(lambda: bool(self.of("ready")) or not self._thread.is_alive())
        assert self.status == 200, (self.status, self.body)
        return self

    def wait(self, *statuses: str) -> Stream:
        """Until exactly these changes have come."""
        eventually(lambda: len(self.statuses) >= len(statuses) or not self._thread.is_alive())
        assert self.statuses == list(statuses)
        return self

    def join(self) -> Stream:
        self._thread.join(120)
        assert not self._thread.is_alive(), "the stream has not ended"
        return self

    def leave_at_next_event(self) -> None:
        self._leaving.set()


class Team:
    """A tenant of its own with one project."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.tenant_id, self.project_id = new_identifier("ten"), new_identifier("proj")
        with api.database.transaction() as connection:
            connection.execute("INSERT INTO tenants (id, name) VALUES (%s, 'T')", (self.tenant_id,))
            connection.execute(
                "INSERT INTO projects (id, tenant_id, name, slug) VALUES (%s, %s, 'P', %s)",
                (self.project_id, self.tenant_id, f"s-{self.project_id[-12:]}"),
            )

    def deployment(self, *, is_preview: bool = False) -> str:
        deployment = new_identifier("depl")
        with self._api.database.transaction() as connection:
            connection.execute(
                """INSERT INTO deployments
                  (id, tenant_id, project_id, repository_url, branch, release_sequence, host, is_preview)
                VALUES (%s, %s, %s, 'https://example.org/x.git', 'main', 1, 'h', %s)""",
                (deployment, self.tenant_id, self.project_id, is_preview),
            )
        return deployment

    def add(self, user: User, role: Role = Role.VIEWER) -> None:
        with self._api.database.transaction() as connection:
            TenantRepository(self._api.database).insert_membership(
                connection, tenant_id=self.tenant_id, user_id=user.id, role=role
            )

    def remove(self, user: User) -> None:
        with self._api.database.transaction() as connection:
            connection.execute(
                "DELETE FROM memberships WHERE tenant_id = %s AND user_id = %s", (self.tenant_id, user.id)
            )

    def change(self, deployment: str, *statuses: str, is_rung: bool = True) -> None:
        for status in statuses:
            entries = [LogStatus(timestamp=1, status=status)]
            with self._api.database.transaction() as connection:
                first, last = self._api.log.append(connection, deployment, entries, fence=None)
            if is_rung:
                self._api.notifier.notify(deployment, first, last, entries)


class User:
    def __init__(self, api: Api, email: str) -> None:
        self._api = api
        body = {"email": email, "password": PASSWORD}
        answer = httpx.post(f"{api.url}/auth/register", json=body, timeout=120, trust_env=False)
        assert answer.status_code == 201, answer.text
        self.headers = {"Authorization": f"Bearer {answer.json()['data']['accessToken']}"}
        self.id: str = answer.json()["data"]["user"]["id"]

    @property
    def tenant_id(self) -> str:
        return self._api.services.tenants.memberships_of(self.id)[0].tenant_id

    def stream(self, *, last_event_id: str | None = None, **query: str) -> Stream:
        headers = dict(self.headers)
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        return Stream(f"{self._api.url}/events/stream", headers, **query)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = httpx.post(f"{self._api.url}{path}", json=body, headers=self.headers, timeout=120, trust_env=False)
        assert answer.is_success, answer.text
        return answer.json()["data"]


class Api:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database.url)
        self.log = PostgresLogStore(self.database)
        self.events = AccountEventStore(self.database)
        self.notifier = RedisNotifier.connect(settings.queue.redis_url)
        self.url = ""
        self.services: Services
        self._stop: Callable[[], None] = lambda: None

    def start(self) -> None:
        backends = connect_backends(self.settings)
        self.services = build_services(self.settings, backends)
        [port] = free_ports(1)
        self.url = f"http://127.0.0.1:{port}/api"
        application = create_app(self.services, lifespan=[self.services.running_hubs])
        config = uvicorn.Config(application, port=port, ws="none", log_config=None, timeout_graceful_shutdown=60)
        server = Server(config, [self.services.log_hub, self.services.account_hub])
        thread = threading.Thread(target=server.run)
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join(120)
            self.services.health.close()
            backends.close()
            assert not thread.is_alive(), "the server does not stop"

        self._stop = stop
        eventually(lambda: server.started)

    def stop(self) -> None:
        self._stop()
        self._stop = lambda: None

    def close(self) -> None:
        self.stop()
        self.notifier.close()
        self.database.close()


@contextmanager
def running(settings: Settings) -> Generator[Api]:
    api = Api(settings)
    try:
        api.start()
        yield api
    finally:
        api.close()


@pytest.fixture
def api(settings: Settings) -> Iterator[Api]:
    with running(settings) as api:
        yield api


@pytest.fixture
def user(api: Api) -> User:
    return User(api, "ada@example.com")


def test_a_change_as_it_happens(api: Api, user: User) -> None:
    team = Team(api)
    team.add(user)
    deployment = team.deployment(is_preview=True)
    team.change(deployment, "queued")
    stream = user.stream().ready()
    assert (stream.events[-1].event, stream.events[-1].data) == ("ready", "{}")
    entries = [LogStatus(timestamp=5, status="cloning", stage="clone", attempt=2)]
    with api.database.transaction() as connection:
        first, last = api.log.append(connection, deployment, entries, fence=None)
    api.notifier.notify(deployment, first, last, entries)
    error: dict[str, str | None] = {"code": "CLONE_FAILED", "stage": "clone", "message": "no\r\n\ndata: forged"}
    ends = [LogStatus(timestamp=6, status="failed"), LogEnd(timestamp=6, status="failed", error=error)]
    stream.wait("cloning")
    with api.database.transaction() as connection:
        first, last = api.log.append(connection, deployment, ends, fence=None)
    api.notifier.notify(deployment, first, last, ends)
    stream.wait("cloning", "failed")
    common = {"deploymentId": deployment, "projectId": team.project_id, "isPreview": True}
    assert stream.changes == [
        {**common, "status": "cloning", "stage": "clone", "attempt": 2, "ts": 5},
        {**common, "status": "failed", "ts": 6, "error": error},
    ]
    # From each id what followed it comes again, and nothing else.
    for index, event in enumerate(stream.of("ready", "status")):
        again = user.stream(last_event_id=event.id).ready()
        again.wait(*stream.statuses[index:])
        assert user.stream(after=event.id).ready().wait(*stream.statuses[index:]).changes == stream.changes[index:]


def test_a_deployment_accepted_by_the_api_is_reported_at_once(api: Api, user: User) -> None:
    project = user.post("/projects", {"name": "site", "repositoryUrl": "https://git.example.com/team/site.git"})
    stream = user.stream().ready()
    deployment = user.post("/deployments", {"projectId": project["id"]})
    stream.wait("queued")
    user.post(f"/deployments/{deployment['id']}/cancel", {})
    stream.wait("queued", "cancelled")
    assert {change["deploymentId"] for change in stream.changes} == {deployment["id"]}


def test_several_tenants_and_never_a_strangers(api: Api, user: User) -> None:
    ours, others, theirs = Team(api), Team(api), Team(api)
    ours.add(user)
    others.add(user, Role.DEVELOPER)
    a, b, c = ours.deployment(), others.deployment(), theirs.deployment()
    ours.change(a, "queued")
    theirs.change(c, "queued")
    stream = user.stream().ready()
    beginning = stream.last_id
    sent: list[str] = []
    for number in range(6):
        theirs.change(c, f"secret-{number}")
        (ours if number % 2 else others).change(a if number % 2 else b, f"s{number}")
        sent.append(f"s{number}")
        stream.wait(*sent)
    assert decode_cursor(stream.last_id, [user.tenant_id, ours.tenant_id, others.tenant_id]) == {
        user.tenant_id: 0,
        ours.tenant_id: 4,
        others.tenant_id: 3,
    }
    assert "secret" not in "".join(event.data for event in stream.events)
    # In the middle of both sequences.
    middle = stream.of("status")[2].id
    again = user.stream(last_event_id=middle).ready()
    eventually(lambda: len(again.changes) == 3)
    assert sorted(again.statuses) == ["s3", "s4", "s5"]
    # A stranger's position is of no use.
    stranger = User(api, "eve@example.com")
    nothing = stranger.stream(last_event_id=beginning).ready()
    own = stranger.post("/projects", {"name": "mine", "repositoryUrl": "https://git.example.com/team/site.git"})
    stranger.post("/deployments", {"projectId": own["id"]})
    nothing.wait("queued")
    assert nothing.changes[0]["projectId"] == own["id"]


def test_a_tenant_joined_or_left_ends_the_stream_and_the_next_one_knows(api: Api, user: User) -> None:
    team, late = Team(api), Team(api)
    team.add(user)
    a, b = team.deployment(), late.deployment()
    late.change(b, "before")
    stream = user.stream().ready()
    team.change(a, "one")
    stream.wait("one")
    late.add(user)
    stream.join()
    assert stream.of("reconnect")[-1].json() == {"reason": "revoked"}
    team.change(a, "two")
    stream = user.stream(last_event_id=stream.last_id).ready().wait("two")
    late.change(b, "after")
    stream.wait("two", "after")
    team.remove(user)
    stream.join()
    team.change(a, "unseen")
    late.change(b, "last")
    user.stream(last_event_id=stream.last_id).ready().wait("last")


def test_callers_that_are_refused(api: Api, user: User) -> None:
    def refusal(headers: dict[str, str], **query: str) -> tuple[int, str]:
        stream = Stream(f"{api.url}/events/stream", headers, **query).join()
        return stream.status, json.loads(stream.body)["error"]["code"]

    assert refusal({}) == (401, "UNAUTHENTICATED")
    scoped = user.post("/auth/tokens", {"name": "t", "scopes": ["project:read"]})["token"]
    assert refusal({"Authorization": f"Bearer {scoped}"}) == (403, "FORBIDDEN")
    reading = user.post("/auth/tokens", {"name": "r", "scopes": ["deploy:read"]})["token"]
    Stream(f"{api.url}/events/stream", {"Authorization": f"Bearer {reading}"}).ready()
    assert refusal(user.headers, until="x") == (400, "INVALID_FILTER")
    good = encode_cursor({user.tenant_id: 0})
    for bad in ("x", "12", good[:-1], good[1:], good + "=", good + "A", "ä", encode_cursor({user.tenant_id: 1})):
        assert refusal(user.headers, after=bad) == (400, "INVALID_CURSOR"), bad
    assert user.stream(after=encode_cursor({"ten_gone": 99})).ready().status == 200


def test_a_ticket_opens_the_stream_once(api: Api, user: User) -> None:
    ticket = user.post("/auth/stream-tickets", {})["ticket"]
    assert Stream(f"{api.url}/events/stream", {}, ticket=ticket).ready().status == 200
    assert Stream(f"{api.url}/events/stream", {}, ticket=ticket).join().status == 401


def test_events_that_are_no_longer_kept_are_a_gap(api: Api, user: User) -> None:
    team = Team(api)
    team.add(user)
    deployment = team.deployment()
    first = user.stream().ready()
    beginning = first.last_id
    first.leave_at_next_event()
    team.change(deployment, *(f"s{number}" for number in range(1, 8)))
    # What a process still has in its memory is sent, so it is to forget.
    first.join()
    eventually(lambda: api.services.account_hub.watched_count == 0)
    api.events.delete_expired(kept_events=3)
    stream = user.stream(last_event_id=beginning).ready()
    eventually(lambda: len(stream.changes) == 3)
    assert [event.event for event in stream.of("gap", "status")] == ["gap", "status", "status", "status"]
    assert stream.of("gap")[0].json() == {"from": 1, "to": 4, "reason": "retention"}
    assert stream.statuses == ["s5", "s6", "s7"]
    after_gap = user.stream(last_event_id=stream.of("gap")[0].id).ready()
    after_gap.wait("s5", "s6", "s7")
    assert not after_gap.of("gap")
    # Nothing at all is left.
    api.events.delete_expired(kept_events=0)
    stream = user.stream(last_event_id=beginning).ready()
    eventually(lambda: bool(stream.of("gap")))
    assert stream.of("gap")[0].json()["to"] == 7
    team.change(deployment, "s8")
    stream.wait("s8")


def test_more_than_one_batch_and_than_a_process_keeps(api: Api, user: User) -> None:
    team = Team(api)
    team.add(user)
    deployment = team.deployment()
    early = user.stream().ready()
    names = [f"s{number}" for number in range(1500)]
    for start in range(0, len(names), 300):
        with api.database.transaction() as connection:
            entries = [LogStatus(timestamp=1, status=name) for name in names[start : start + 300]]
            api.log.append(connection, deployment, entries, fence=None)
    api.notifier.notify(deployment, 1, 1500, [LogStatus(timestamp=1, status="x")])
    early.wait(*names)
    user.stream(last_event_id=early.of("ready")[0].id).ready().wait(*names)
    user.stream(last_event_id=early.of("status")[1200].id).ready().wait(*names[1201:])


def test_a_deleted_project_takes_no_events_along(api: Api, user: User) -> None:
    team = Team(api)
    team.add(user)
    deployment = team.deployment()
    beginning = user.stream().ready().last_id
    team.change(deployment, "one", "two")
    with api.database.transaction() as connection:
        connection.execute("DELETE FROM projects WHERE id = %s", (team.project_id,))
    user.stream(last_event_id=beginning).ready().wait("one", "two")


def test_nothing_is_lost_when_the_api_restarts(api: Api, user: User) -> None:
    team = Team(api)
    team.add(user)
    deployment = team.deployment()
    stream = user.stream().ready()
    team.change(deployment, "one")
    stream.wait("one")
    api.stop()
    stream.join()
    assert stream.of("reconnect")[-1].json() == {"reason": "shutdown"}
    team.change(deployment, "two", "three")
    api.start()
    again = user.stream(last_event_id=stream.last_id).ready()
    team.change(deployment, "four")
    again.wait("two", "three", "four")


def test_lost_messages_and_a_redis_that_goes_and_comes(settings: Settings, tmp_path: Path) -> None:
    [port] = free_ports(1)
    server = ValkeyServer(tmp_path / "valkey", port=port, password="p", is_durable=False)
    server.start()
    try:
        server.wait(120)
        with running(replace(settings, queue=QueueSettings(redis_url=server.url))) as api:
            user, team = User(api, "ada@example.com"), Team(api)
            team.add(user)
            deployment = team.deployment()
            stream = user.stream().ready()
            team.change(deployment, "one")
            stream.wait("one")
            server.stop()
            team.change(deployment, "two", is_rung=False)
            stream.wait("one", "two")
            away = user.stream(last_event_id=stream.of("status")[0].id).ready().wait("two")
            server.start()
            server.wait(120)
            team.change(deployment, "three", is_rung=False)
            stream.wait("one", "two", "three")
            away.wait("two", "three")
    finally:
        server.stop()
