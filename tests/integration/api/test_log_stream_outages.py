"""Streams of real API processes while Redis, PostgreSQL, the API or a worker go away: each follower ends with exactly
what is stored, without a gap and in order."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from schemas.accounts import CreateTokenRequest
from schemas.logs import LogLine, LogStatus
from shared.accounts.permissions import Role
from shared.accounts.tenant_repository import TenantRepository
from shared.accounts.token_repository import TokenRepository
from shared.accounts.token_service import TokenService
from shared.clock import SystemClock
from shared.db.database import Database
from shared.db.migrate import migrate
from shared.logs.base import NumberedEntry
from shared.logs.capture.writer import LogWriter
from shared.logs.masking.redaction import Redactor
from shared.logs.notifier import RedisNotifier
from shared.logs.store import PostgresLogStore
from shared.stack.postgres import PostgresServer
from shared.stack.valkey import ValkeyServer
from tests.support.log_rows import end, eventually, new_deployment, status
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration

TIMEOUT_SECONDS = 180.0


@dataclass
class Ground:
    """Servers of the module's own, which its tests stop and start."""

    postgres: PostgresServer
    valkey: ValkeyServer
    database: Database
    store: PostgresLogStore
    notifier: RedisNotifier
    environment: dict[str, str]
    headers: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def api(self, count: int = 1) -> Generator[list[Api]]:
        """That many API processes that answer, and a user who may see every deployment of `deployment`."""
        with ExitStack() as stack:
            apis = [stack.enter_context(self._running()) for _ in range(count)]
            for api in apis:
                eventually(api.answers, TIMEOUT_SECONDS)
            if not self.headers:
                body = {"email": "ada@example.com", "password": secrets.token_hex(16)}
                made = httpx.post(f"{apis[0].url}/auth/register", json=body, timeout=TIMEOUT_SECONDS).json()
                repository = TokenRepository(self.database)
                tokens = TokenService(database=self.database, tokens=repository, clock=SystemClock())
                token = tokens.create(made["data"]["user"]["id"], CreateTokenRequest(name="t")).token
                self.headers = {"Authorization": f"Bearer {token}"}
            yield apis

    @contextmanager
    def _running(self) -> Generator[Api]:
        [port] = free_ports(1)
        environment = {**self.environment, "CLOUDIFY_API_PORT": str(port)}
        process = subprocess.Popen([sys.executable, "-m", "api.main"], env=environment)
        try:
            yield Api(process, f"http://127.0.0.1:{port}/api")
        finally:
            process.kill()
            process.wait()

    def deployment(self) -> str:
        deployment_id = new_deployment(self.database)
        with self.database.transaction() as connection:
            user_id = connection.fetch_value(str, "SELECT id FROM users")
            tenant_id = connection.fetch_value(
                str, "SELECT tenant_id FROM deployments WHERE id = %(id)s", {"id": deployment_id}
            )
            assert user_id is not None
            assert tenant_id is not None
            TenantRepository(self.database).insert_membership(
                connection, tenant_id=tenant_id, user_id=user_id, role=Role.VIEWER
            )
        return deployment_id

    def writer(self, deployment_id: str, fence: int = 1) -> LogWriter:
        redactor = Redactor(["a secret"])
        return LogWriter(self.store, self.database, self.notifier, deployment_id, "build", fence, redactor)

    def finish(self, deployment_id: str) -> list[NumberedEntry]:
        """Ends the log; everything that is stored."""
        entries = [status("ready"), end()]
        with self.database.transaction() as connection:
            first, last = self.store.append(connection, deployment_id, entries, fence=None)
        self.notifier.notify(deployment_id, first, last, entries)
        stored: list[NumberedEntry] = []
        while page := self.store.read(deployment_id, after=len(stored), limit=1000):
            stored += page
        assert [numbered.seq for numbered in stored] == list(range(1, last + 1))
        return stored


@dataclass
class Api:
    process: subprocess.Popen[bytes]
    url: str

    def answers(self) -> bool:
        assert self.process.poll() is None, "the API has ended"
        try:
            return httpx.get(f"{self.url}/health/live", timeout=TIMEOUT_SECONDS).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    folder = tmp_path_factory.mktemp("ground")
    postgres_port, valkey_port = free_ports(2)
    postgres = PostgresServer(folder / "postgres", port=postgres_port, password=secrets.token_hex(16))
    valkey = ValkeyServer(folder / "valkey", port=valkey_port, password=secrets.token_hex(16))
    with ExitStack() as stack:
        for server in (postgres, valkey):
            stack.callback(server.stop)
            server.start()
            server.wait(TIMEOUT_SECONDS)
        migrate(postgres.url)
        database = Database(postgres.url)
        stack.callback(database.close)
        notifier = RedisNotifier.connect(valkey.url)
        stack.callback(notifier.close)
        environment = environment_of(folder, postgres.url, valkey.url)
        yield Ground(postgres, valkey, database, PostgresLogStore(database), notifier, environment)


def environment_of(folder: Path, database_url: str, redis_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "CLOUDIFY_HOME": str(folder / "home"),
        "CLOUDIFY_DATABASE_URL": database_url,
        "CLOUDIFY_REDIS_URL": redis_url,
        # Nothing here is old enough to have been moved to the object store.
        "CLOUDIFY_S3_ENDPOINT": "http://127.0.0.1:9",
        "CLOUDIFY_S3_ACCESS_KEY": "test",
        "CLOUDIFY_S3_SECRET_KEY": "test",
        "CLOUDIFY_SECRET_KEY": "x" * 32,
        "CLOUDIFY_REGISTRATION_ENABLED": "true",
        "CLOUDIFY_ENCRYPTION_KEYS": "k1:" + base64.b64encode(b"1" * 32).decode(),
        "CLOUDIFY_METRICS_PORT": "0",
        "CLOUDIFY_LOG_LEVEL": "warning",
    }


class Follower:
    """A client that comes back to one API or the next until it has seen the end, and drops what it knows."""

    def __init__(self, ground: Ground, apis: list[Api], deployment_id: str) -> None:
        self.entries: list[tuple[int, str]] = []
        self.connections = 0
        self.reasons: list[str] = []
        self._headers = ground.headers
        self._urls = [f"{api.url}/deployments/{deployment_id}/logs/stream" for api in apis]
        self._is_ended = False
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    @property
    def seen(self) -> int:
        return len(self.entries)

    def join(self) -> Follower:
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive(), "the end has not come"
        return self

    def _follow(self) -> None:
        pause = threading.Event()
        while not self._is_ended:
            url = self._urls[self.connections % len(self._urls)]
            self.connections += 1
            try:
                self._read(url)
            except httpx.TransportError:
                pause.wait(0.2)

    def _read(self, url: str) -> None:
        headers = dict(self._headers)
        if self.entries:
            headers["Last-Event-ID"] = str(self.entries[-1][0])
        with (
            httpx.Client(timeout=TIMEOUT_SECONDS) as client,
            connect_sse(client, "GET", url, headers=headers) as source,
        ):
            if source.response.status_code != 200:
                raise httpx.TransportError(f"status {source.response.status_code}")
            for event in source.iter_sse():
                self._take(event)

    def _take(self, event: ServerSentEvent) -> None:
        if not event.data:
            return
        data = json.loads(event.data)
        found: list[tuple[int, str]] = []
        match event.event:
            case "log":
                found = [(item["seq"], item["text"]) for item in data["lines"]]
            case "status":
                found = [(data["seq"], f"status {data['status']}")]
            case "end":
                found = [(data["seq"], "end")]
                self._is_ended = True
            case "reconnect":
                self.reasons.append(data["reason"])
            case _:
                raise AssertionError(event)
        last = self.entries[-1][0] if self.entries else 0
        self.entries += [item for item in found if item[0] > last]


def shown(stored: list[NumberedEntry]) -> list[tuple[int, str]]:
    def text(entry: Any) -> str:
        match entry:
            case LogLine():
                return entry.text
            case LogStatus():
                return f"status {entry.status}"
            case _:
                return "end"

    return [(numbered.seq, text(numbered.entry)) for numbered in stored]


class Scribe:
    """Writes numbered lines, some 200 a second, until `stop`."""

    def __init__(self, writer: LogWriter, name: str = "line") -> None:
        self.writer = writer
        self._name = name
        self._stopped = threading.Event()
        self.count = 0
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        while not self._stopped.wait(0.005):
            self.writer.write("stdout", f"{self._name} {self.count}\n".encode())
            self.count += 1

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(TIMEOUT_SECONDS)
        self.writer.close(TIMEOUT_SECONDS)


def wait_for_more(followers: list[Follower], entries: int) -> None:
    """Each of them gets so many more."""
    wanted = [follower.seen + entries for follower in followers]

    def has_come() -> bool:
        return all(follower.seen >= count for follower, count in zip(followers, wanted, strict=True))

    eventually(has_come, TIMEOUT_SECONDS)


def run(
    ground: Ground, apis: list[Api], disaster: Callable[[list[Follower]], None], *, is_felt: bool
) -> list[Follower]:
    """Three followers of one log, before, during and after a disaster: all end with what is stored.

    Unless it `is_felt`, their connections stay open.
    """
    deployment_id = ground.deployment()
    scribe = Scribe(ground.writer(deployment_id))
    followers = [Follower(ground, apis, deployment_id) for _ in range(3)]
    wait_for_more(followers, 30)
    connections = [follower.connections for follower in followers]
    disaster(followers)
    wait_for_more(followers, 30)
    assert is_felt or [follower.connections for follower in followers] == connections
    scribe.stop()
    stored = shown(ground.finish(deployment_id))
    assert [text for _, text in stored[:-2]] == [f"line {number}" for number in range(scribe.count)]
    for follower in followers:
        assert follower.join().entries == stored
    return followers


@pytest.mark.parametrize("is_killed", [False, True], ids=["stopped", "killed"])
def test_redis_goes_away_and_comes_back(ground: Ground, *, is_killed: bool) -> None:
    with ground.api() as apis:

        def outage(followers: list[Follower]) -> None:
            assert ground.valkey.process is not None
            ground.valkey.process.send_signal(signal.SIGKILL if is_killed else signal.SIGSTOP)
            try:
                # At once and often enough that it isn't what was on its way: the store is looked at every second.
                for _ in range(8):
                    wait_for_more(followers, 100)
            finally:
                if is_killed:
                    ground.valkey.process.wait()
                    ground.valkey.start()
                    ground.valkey.wait(TIMEOUT_SECONDS)
                else:
                    ground.valkey.process.send_signal(signal.SIGCONT)

        run(ground, apis, outage, is_felt=False)


def test_postgres_restarts(ground: Ground) -> None:
    with ground.api() as apis:

        def restart(_followers: list[Follower]) -> None:
            ground.postgres.stop()
            ground.postgres.start()
            ground.postgres.wait(TIMEOUT_SECONDS)

        run(ground, apis, restart, is_felt=False)


def test_a_stopped_api_sends_its_streams_to_another(ground: Ground) -> None:
    with ground.api(2) as apis:

        def stop(followers: list[Follower]) -> None:
            apis[0].process.send_signal(signal.SIGTERM)
            assert apis[0].process.wait(TIMEOUT_SECONDS) == 0
            wait_for_more(followers, 30)

        for follower in run(ground, apis, stop, is_felt=True):
            assert follower.reasons == ["shutdown"]


def test_a_killed_api_is_replaced_by_another(ground: Ground) -> None:
    with ground.api(2) as apis:

        def kill(_followers: list[Follower]) -> None:
            apis[0].process.kill()
            apis[0].process.wait()

        for follower in run(ground, apis, kill, is_felt=True):
            assert follower.reasons == []


def test_two_workers_write_to_one_log(ground: Ground) -> None:
    """The first one lost its lease and doesn't know: nothing that it writes after the second one's first line shows."""
    with ground.api() as apis:
        deployment_id = ground.deployment()
        followers = [Follower(ground, apis, deployment_id) for _ in range(3)]
        zombie = Scribe(ground.writer(deployment_id, fence=1), "old")
        wait_for_more(followers, 30)
        successor = Scribe(ground.writer(deployment_id, fence=2), "new")
        assert zombie.writer.lost.wait(TIMEOUT_SECONDS)
        wait_for_more(followers, 30)
        zombie.stop()
        successor.stop()
        stored = shown(ground.finish(deployment_id))
        for follower in followers:
            assert follower.join().entries == stored
        texts = [text for _, text in stored[:-2]]
        takeover = texts.index("new 0")
        assert texts[:takeover] == [f"old {number}" for number in range(takeover)]
        assert texts[takeover:] == [f"new {number}" for number in range(successor.count)]
        assert zombie.count > takeover


def test_any_output_arrives_as_it_is_stored(ground: Ground) -> None:
    output = (
        b"red \x1b[31mred\x1b[0m\r\nnul \x00 and bad \xff\xfe\xc3 bytes\n"
        b"\xe2\x80\xa8 \xe2\x80\xa9 \xc2\x85 \x0b \x0c \x1c\n"
        b"half\rwhole\n\ndata: forged\nid: 999\nevent: end\n: comment\n\xef\xbb\xbf bom\nlast \xf0\x9f\x8e"
    )  # fmt: skip
    expected = [
        "red \x1b[31mred\x1b[0m", "nul \ufffd and bad \ufffd\ufffd\ufffd bytes", "\u2028 \u2029 \x85 \x0b \x0c \x1c",
        "half", "whole", "", "data: forged", "id: 999", "event: end", ": comment", "\ufeff bom", "last \ufffd",
    ]  # fmt: skip
    with ground.api() as apis:
        deployment_id = ground.deployment()
        follower = Follower(ground, apis, deployment_id)
        with ground.writer(deployment_id) as writer:
            for byte in output:
                writer.write("stdout", bytes([byte]))
            writer.write("stdout", b"\n" + b"y" * 200_000)
        stored = shown(ground.finish(deployment_id))
        long = ["y" * 65_536] * 3 + ["y" * (200_000 - 3 * 65_536)]
        assert [text for _, text in stored[:-2]] == [*expected, *long]
        assert follower.join().entries == stored
