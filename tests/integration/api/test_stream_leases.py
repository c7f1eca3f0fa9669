"""Open streams: they end with their right, and no more of them are open than a user may have."""

from __future__ import annotations

import dataclasses
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY
from redis import Redis

from shared.db.database import Database
from shared.settings import QueueSettings, Settings
from shared.stack.valkey import ValkeyServer
from tests.support.live_api import TIMEOUT_SECONDS, LiveApi, LiveStream, User, live_api
from tests.support.log_rows import end, eventually, line
from tests.support.manual_clock import ManualClock
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration

until = partial(eventually, seconds=TIMEOUT_SECONDS)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC))


@pytest.fixture
def api(settings: Settings, clock: ManualClock) -> Iterator[LiveApi]:
    with live_api(settings, clock=clock) as api:
        yield api


def revoke_token(api: LiveApi, user: User, token_id: str, _deployment_id: str) -> None:
    api.services.tokens.revoke(user.id, token_id)


def let_token_expire(api: LiveApi, _user: User, token_id: str, _deployment_id: str) -> None:
    api.change("UPDATE api_tokens SET expires_at = now() WHERE id = %s", token_id)


def remove_member(api: LiveApi, user: User, _token_id: str, deployment_id: str) -> None:
    tenant_id = api.services.deployments.tenant_of(deployment_id)
    api.change("DELETE FROM memberships WHERE user_id = %s AND tenant_id = %s", user.id, tenant_id)


def delete_deployment(api: LiveApi, _user: User, _token_id: str, deployment_id: str) -> None:
    api.change("UPDATE deployments SET deleting_at = now() WHERE id = %s", deployment_id)


def delete_project(api: LiveApi, _user: User, _token_id: str, deployment_id: str) -> None:
    api.change(
        "UPDATE projects SET deleting_at = now() FROM deployments d WHERE d.id = %s AND projects.id = d.project_id",
        deployment_id,
    )


def test_a_stream_ends_with_its_right_and_others_continue(api: LiveApi) -> None:
    losses: list[tuple[Callable[[LiveApi, User, str, str], None], int]] = [
        (revoke_token, 401),
        (let_token_expire, 401),
        (remove_member, 404),
        (delete_deployment, 404),
        (delete_project, 404),
    ]
    bea = api.user("bea@example.com")
    elsewhere = api.deployment(bea)
    bystander = api.follow(elsewhere, bea.bearer).opened()
    for number, (lose, status) in enumerate(losses):
        ada = api.user(f"ada{number}@example.com")
        deployment = api.deployment(ada, bea)
        token_id, token = api.token(ada)
        stream = api.follow(deployment, token).opened()
        api.write(deployment, line("before"))
        stream.heard("before")
        lose(api, ada, token_id, deployment)
        stream.join()
        assert stream.is_revoked, (lose, stream.body)
        # Its client, who comes back at once, is told why.
        assert api.follow(deployment, token).answered().status == status, lose
        until(lambda ada=ada: api.slots(ada) == 0)
    api.write(elsewhere, line("still here"))
    bystander.heard("still here")


def test_a_stream_ends_with_its_session_however_it_was_opened(api: LiveApi) -> None:
    ada = api.user()
    deployment = api.deployment(ada)
    cookie = {"Cookie": f"__Host-cloudify_refresh={ada.session.refresh_token}"}
    streams = [
        api.follow(deployment, ada.bearer),
        api.follow(deployment, cookie),
        api.follow(deployment, ticket=api.ticket(ada.bearer, deploymentId=deployment)),
        LiveStream(f"{api.url}/api/events/stream", ada.bearer),
    ]
    _, token = api.token(ada)
    other = api.follow(deployment, token).opened()
    for stream in streams:
        stream.opened()
    api.services.sessions.end(ada.session.refresh_token)
    for stream in streams:
        stream.join()
        assert stream.is_revoked, stream.body
    api.write(deployment, line("by the token"))
    other.heard("by the token")


def test_a_stream_outlives_its_access_token_but_not_its_session(api: LiveApi, clock: ManualClock) -> None:
    ada = api.user()
    deployment = api.deployment(ada)
    stream = api.follow(deployment, ada.bearer).opened()
    clock.advance(3600)
    assert (
        httpx.get(f"{api.url}/api/auth/me", headers=ada.bearer, timeout=TIMEOUT_SECONDS).json()["error"]["code"]
        == "TOKEN_EXPIRED"
    )
    rounds = api.leases.rounds
    until(lambda: api.leases.rounds >= rounds + 2)
    api.write(deployment, line("an hour later"))
    stream.heard("an hour later")
    clock.advance(timedelta(days=31).total_seconds())
    stream.join()
    assert stream.is_revoked


def test_streams_continue_while_the_database_is_away(settings: Settings) -> None:
    [port] = free_ports(1)
    with (
        closing(Database(f"postgresql://x:x@127.0.0.1:{port}/x", timeout_seconds=0.1)) as away,
        live_api(settings, rights=away) as api,
    ):
        ada = api.user()
        deployment = api.deployment(ada)
        stream = api.follow(deployment, ada.bearer).opened()
        api.services.sessions.end(ada.session.refresh_token)
        until(lambda: api.leases.failed_rounds >= 2)
        api.write(deployment, line("nobody can say otherwise"))
        stream.heard("nobody can say otherwise")
        assert stream.is_open


def limited(settings: Settings, limit: int) -> Settings:
    return dataclasses.replace(settings, api=dataclasses.replace(settings.api, streams_per_user=limit))


def assert_limit_reached(stream: LiveStream, limit: int) -> None:
    stream.answered()
    assert stream.status == 429, stream.body
    assert b'"STREAM_LIMIT"' in stream.body
    assert f"You have {limit} streams open".encode() in stream.body
    assert int(stream.headers["retry-after"]) > 0
    assert stream.headers["content-type"] == "application/json"


def test_the_limit_counts_across_processes_and_kinds_of_streams(settings: Settings) -> None:
    settings = limited(settings, 3)
    with live_api(settings) as one, live_api(settings) as two:
        ada, bea = one.user(), one.user("bea@example.com")
        deployment = one.deployment(ada, bea)
        first = one.follow(deployment, ada.bearer).opened()
        two.follow(deployment, ada.bearer).opened()
        LiveStream(f"{two.url}/api/events/stream", ada.bearer).opened()
        for api in (one, two):
            assert_limit_reached(api.follow(deployment, ada.bearer), 3)
            assert_limit_reached(LiveStream(f"{api.url}/api/events/stream", ada.bearer), 3)
        assert one.slots(ada) == 3
        # Others are not concerned; neither are answers that are no streams.
        one.follow(deployment, bea.bearer).opened()
        assert one.follow(deployment, {**ada.bearer, "Last-Event-ID": "x"}).answered().status == 400
        first.leave()
        until(lambda: one.slots(ada) == 2)
        two.follow(deployment, ada.bearer).opened()


def ended(reason: str) -> float:
    """How many streams of this process have ended for this reason."""
    return REGISTRY.get_sample_value("cloudify_sse_streams_ended_total", {"reason": reason}) or 0.0


@contextmanager
def reluctant_client(api: LiveApi, deployment: str, user: User) -> Iterator[socket.socket]:
    """Asks for a log of 9 MB, which no buffer holds, and doesn't read."""
    for _ in range(8):
        api.write(deployment, *(line("x" * 60_000) for _ in range(20)))
    with socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2])), timeout=TIMEOUT_SECONDS) as client:
        target = api.path(deployment).removeprefix(api.url)
        authorization = f"Authorization: {user.bearer['Authorization']}"
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{authorization}\r\n\r\n".encode())
        yield client


def test_a_client_that_was_too_slow_is_told_when_it_reads_again(settings: Settings) -> None:
    with live_api(settings, stall=0.3, slow_notice=TIMEOUT_SECONDS) as api:
        ada = api.user()
        deployment = api.deployment(ada)
        before = ended("slow")
        with reluctant_client(api, deployment, ada) as client:
            # It looks without taking: the stream has begun.
            until(lambda: b"data: " in client.recv(8192, socket.MSG_PEEK))
            # Its place in the log is given up; what it has not taken yet waits for it.
            until(lambda: api.services.log_hub.stream_count == 0)
            assert api.leases.open_count == 1
            received = b""
            while not received.endswith(b"\r\n0\r\n\r\n"):
                piece = client.recv(1 << 20)
                assert piece, "the response was not completed"
                received = received[-100:] + piece
        assert b'event: reconnect\ndata: {"reason":"slow"}\n\n' in received
        until(lambda: ended("slow") == before + 1)
        until(lambda: api.slots(ada) == 0)


def test_a_slot_is_freed_whatever_ends_its_stream(settings: Settings, clock: ManualClock) -> None:
    with live_api(settings, clock=clock, stall=0.3, slow_notice=0.1) as api:
        ada = api.user()
        deployment, finished = api.deployment(ada), api.deployment(ada)
        # A client that vanishes.
        api.follow(deployment, ada.bearer).opened().leave()
        until(lambda: api.slots(ada) == 0)
        # The log's end.
        stream = api.follow(finished, ada.bearer).opened()
        api.write(finished, end())
        stream.join()
        until(lambda: api.slots(ada) == 0)
        # HEAD, 204.
        assert httpx.head(api.path(deployment), headers=ada.bearer, timeout=TIMEOUT_SECONDS).status_code == 200
        assert api.follow(finished, ada.bearer, after="1").answered().status == 204
        until(lambda: api.slots(ada) == 0)
        # A client that takes nothing.
        before = ended("stalled")
        with reluctant_client(api, deployment, ada):
            until(lambda: ended("stalled") == before + 1)
            until(lambda: api.slots(ada) == 0)
        # A lost right.
        stream = api.follow(deployment, ada.bearer, tail="1").opened()
        until(lambda: api.slots(ada) == 1)
        api.services.sessions.end(ada.session.refresh_token)
        assert stream.join().is_revoked
        until(lambda: api.slots(ada) == 0)
        # A server that stops.
        bea = api.user("bea@example.com")
        streams = [api.follow(api.deployment(bea), bea.bearer).opened() for _ in range(3)]
        until(lambda: api.slots(bea) == 3)
    for stream in streams:
        assert b'{"reason":"shutdown"}' in stream.join().body
    assert api.slots(bea) == 0


@contextmanager
def own_valkey(directory: Path) -> Iterator[ValkeyServer]:
    [port] = free_ports(1)
    valkey = ValkeyServer(directory / "valkey", port=port, password=secrets.token_hex(8), is_durable=False)
    valkey.start()
    try:
        valkey.wait(TIMEOUT_SECONDS)
        yield valkey
    finally:
        valkey.stop()


def test_while_redis_is_away_each_process_counts_its_own(settings: Settings, tmp_path: Path) -> None:
    with own_valkey(tmp_path) as valkey:
        settings = dataclasses.replace(limited(settings, 2), queue=QueueSettings(redis_url=valkey.url))
        with live_api(settings) as one, live_api(settings) as two:
            ada = one.user()
            deployment = one.deployment(ada)
            kept = one.follow(deployment, ada.bearer).opened()
            until(lambda: one.slots(ada) == 1)
            valkey.stop()
            one.follow(deployment, ada.bearer).opened()
            assert_limit_reached(one.follow(deployment, ada.bearer), 2)
            others = [two.follow(deployment, ada.bearer).opened() for _ in range(2)]
            assert_limit_reached(two.follow(deployment, ada.bearer), 2)
            # A stream that ends meanwhile is no longer counted by any process.
            others.pop().leave()
            until(lambda: two.leases.open_count == 1)
            valkey.start()
            valkey.wait(TIMEOUT_SECONDS)
            # What is open is known again, also to a Redis that has forgotten everything; nobody is thrown out.
            until(lambda: one.slots(ada) == 3)
            assert_limit_reached(two.follow(deployment, ada.bearer), 2)
            one.write(deployment, line("all along"))
            for stream in (kept, *others):
                stream.heard("all along")
            with Redis.from_url(valkey.url) as redis:
                redis.script_flush()
                redis.flushall()
            until(lambda: one.slots(ada) == 3)
