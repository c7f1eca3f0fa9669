"""The whole API behind a real server in a thread, and clients that hold streams open."""

from __future__ import annotations

import dataclasses
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import uvicorn
from redis import Redis

from api.app import create_app
from api.backends import Backends, connect_backends
from api.services import Services, build_services
from api.streams.log_hub import LogHub
from api.streams.stream_lease import StreamLeases
from api.streams.timing import StreamTiming
from schemas.accounts import CreateTokenRequest, RegisterRequest
from schemas.logs import LogEntry
from shared.accounts.permissions import Role
from shared.accounts.session_service import IssuedSession
from shared.accounts.stream_rights import StreamRightsRepository
from shared.accounts.tenant_repository import TenantRepository
from shared.clock import Clock, SystemClock
from shared.db.database import Database
from shared.logs.listener import RedisNotificationListener
from shared.logs.stream_slots import RedisStreamSlots
from shared.settings import Settings
from tests.support.log_rows import eventually, line, new_deployment
from tests.support.ports import free_ports

TIMEOUT_SECONDS = 120.0


class LiveStream:
    """A stream that is read in a thread until it ends or `leave` is called."""

    def __init__(self, url: str, headers: dict[str, str] | None = None, **query: str) -> None:
        parts = urlsplit(url)
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self._target = parts.path + (f"?{urlencode(query)}" if query else "")
        self._headers = headers or {}
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
        self._connection.connect()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            self._connection.request("GET", self._target, headers=self._headers)
            response = self._connection.getresponse()
            self.headers = {name.lower(): value for name, value in response.getheaders()}
            self.status = response.status
            while piece := response.read1(65536):
                self.body += piece
        except (OSError, http.client.HTTPException, ValueError):
            """The connection was cut, by `leave` or by a server that was killed."""
        finally:
            self._connection.close()

    @property
    def is_open(self) -> bool:
        return self._thread.is_alive()

    def answered(self) -> LiveStream:
        """The answer has begun; one that is no stream is complete."""
        eventually(lambda: self.status != 0 or not self.is_open, TIMEOUT_SECONDS)
        if self.status != 200:
            self.join()
        return self

    def opened(self) -> LiveStream:
        self.answered()
        assert self.status == 200, (self.status, self.body)
        eventually(lambda: b"retry:" in self.body, TIMEOUT_SECONDS)
        return self

    def heard(self, text: str) -> LiveStream:
        eventually(lambda: text.encode() in self.body, TIMEOUT_SECONDS)
        return self

    def join(self) -> LiveStream:
        self._thread.join(TIMEOUT_SECONDS)
        assert not self._thread.is_alive(), "the stream has not ended"
        return self

    @property
    def is_revoked(self) -> bool:
        """Ended, with the reason said."""
        return not self.is_open and self.body.endswith(b'event: reconnect\ndata: {"reason":"revoked"}\n\n')

    def leave(self) -> None:
        """As a client that vanishes: no goodbye."""
        if self._connection.sock is not None:
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self.join()


@dataclasses.dataclass
class User:
    id: str
    session: IssuedSession

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.session.access_token}"}


@dataclasses.dataclass
class LiveApi:
    url: str
    services: Services
    backends: Backends
    redis_url: str

    @property
    def database(self) -> Database:
        return self.backends.database

    @property
    def leases(self) -> StreamLeases:
        return self.services.stream_leases

    def user(self, email: str = "ada@example.com") -> User:
        made = self.services.accounts.register(RegisterRequest(email=email, password="correct horse battery"))
        return User(made.id, self.services.sessions.start(made.id, user_agent=None, address=None))

    def token(self, user: User, *scopes: str, **options: Any) -> tuple[str, dict[str, str]]:
        """The id of a new API token, and the header that shows it."""
        made = self.services.tokens.create(user.id, CreateTokenRequest(name="t", scopes=list(scopes), **options))
        return made.id, {"Authorization": f"Bearer {made.token}"}

    def deployment(self, *users: User, role: Role = Role.VIEWER) -> str:
        """One of a new team with these members."""
        deployment_id = new_deployment(self.database)
        tenant_id = self.services.deployments.tenant_of(deployment_id)
        assert tenant_id is not None
        with self.database.transaction() as connection:
            for user in users:
                TenantRepository(self.database).insert_membership(
                    connection, tenant_id=tenant_id, user_id=user.id, role=role
                )
        return deployment_id

    def write(self, deployment_id: str, *entries: LogEntry) -> None:
        with self.database.transaction() as connection:
            first, last = self.services.log_store.append(connection, deployment_id, entries or [line("x")], fence=None)
        self.backends.notifier.notify(deployment_id, first, last, entries)

    def change(self, statement: str, *values: Any) -> None:
        with self.database.transaction() as connection:
            assert connection.execute(statement, values).rowcount == 1

    def path(self, deployment_id: str) -> str:
        return f"{self.url}/api/deployments/{deployment_id}/logs/stream"

    def follow(self, deployment_id: str, headers: dict[str, str] | None = None, **query: str) -> LiveStream:
        return LiveStream(self.path(deployment_id), headers, **query)

    def ticket(self, headers: dict[str, str], **body: Any) -> str:
        path = f"{self.url}/api/auth/stream-tickets"
        response = httpx.post(path, headers=headers, json=body, timeout=TIMEOUT_SECONDS)
        assert response.status_code == 201, response.text
        assert response.json()["data"]["expiresIn"] == 60
        return response.json()["data"]["ticket"]

    def slots(self, user: User) -> int:
        """Those that Redis knows of."""
        with Redis.from_url(self.redis_url) as redis:
            return redis.zcard(f"streams:user:{user.id}")


@contextmanager
def live_api(
    settings: Settings,
    *,
    clock: Clock | None = None,
    check_seconds: float = 0.2,
    rights: Database | None = None,
    **timing: float,
) -> Iterator[LiveApi]:
    """`rights`: where the rights of open streams are read, when that is another database."""
    clock = clock or SystemClock()
    backends = connect_backends(settings)
    listener = RedisNotificationListener(settings.queue.redis_url)
    hub = LogHub(backends.log_store, listener, StreamTiming(**timing)) if timing else None
    slots = RedisStreamSlots(settings.queue.redis_url, limit=settings.api.streams_per_user, renew_seconds=0.2)
    leases = StreamLeases(
        rights=StreamRightsRepository(rights or backends.database),
        slots=slots,
        clock=clock,
        check_seconds=check_seconds,
    )
    services = build_services(settings, backends, log_hub=hub, clock=clock)
    services = dataclasses.replace(services, stream_leases=leases)
    [port] = free_ports(1)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(services, lifespan=[services.running_hubs]),
            port=port,
            http="httptools",
            loop="uvloop",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=30,
        )
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive(), TIMEOUT_SECONDS)
        yield LiveApi(f"http://127.0.0.1:{port}", services, backends, settings.queue.redis_url)
    finally:
        for each in (services.log_hub, services.account_hub):
            each.begin_shutdown()
        server.should_exit = True
        thread.join(TIMEOUT_SECONDS)
        services.health.close()
        backends.close()
    assert not thread.is_alive(), "the server does not stop"
