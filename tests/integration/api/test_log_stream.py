"""Streams over a real server, a real Redis and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.logs import LogLine, LogTruncated
from shared.db.database import Database
from shared.stack.valkey import ValkeyServer
from tests.support.log_rows import end, eventually, line, status
from tests.support.log_stream_api import Api, running_api
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration


class SilentNotifier:
    def notify(self, deployment_id: str, first: int, last: int, entries: object) -> None:
        """Every message is lost."""


@pytest.fixture
def api(database: Database, redis_url: str) -> Iterator[Api]:
    with running_api(database, redis_url) as api:
        yield api


def test_a_whole_deployment_live_from_the_beginning(api: Api) -> None:
    api.append(status("queued"))
    follower = api.follow()
    eventually(lambda: follower.seqs == [1])
    api.append(line("one\r\ndata: forged\u2028"), line("two"))
    api.append(status("building"))
    api.append(*(line(f"line {number}") for number in range(250)))
    api.append(status("ready"), end())
    follower.join()

    assert follower.seqs == list(range(1, 257))
    assert follower.kinds == ["status", "log", "status", "log", "log", "log", "status", "end"]
    assert follower.response_headers["content-type"].startswith("text/event-stream")
    assert follower.response_headers["cache-control"] == "no-cache, no-transform"
    assert follower.response_headers["x-accel-buffering"] == "no"
    assert "content-encoding" not in follower.response_headers
    assert 1000 <= (follower.events[0].retry or 0) <= 5000
    [forged, *_] = json.loads(follower.events[2].data)["lines"]
    assert forged == {"seq": 2, "ts": 1, "stage": "build", "stream": "stdout", "text": "one\r\ndata: forged\u2028"}
    assert json.loads(follower.events[-1].data) == {"status": "ready", "seq": 256, "url": "http://s.localhost"}
    assert json.loads(follower.events[1].data) == {"seq": 1, "status": "queued", "stage": "build", "attempt": 1}


def test_positions(api: Api) -> None:
    api.append(*(line(str(number)) for number in range(1, 11)), LogTruncated(timestamp=1), end())
    assert api.follow().join().seqs == list(range(1, 13))
    assert api.follow(headers={"Last-Event-ID": "7"}).join().seqs == list(range(8, 13))
    assert api.follow(params={"after": "9"}).join().seqs == [10, 11, 12]
    assert api.follow(headers={"Last-Event-ID": "10"}, params={"after": "2", "tail": 9}).join().seqs == [11, 12]
    tail = api.follow(params={"tail": 3}).join()
    assert tail.seqs == [10, 11, 12]
    assert json.loads(tail.events[-2].data) == {"from": 11, "to": 11, "reason": "truncated"}
    assert api.follow(params={"after": "12"}).join().status == 204


@pytest.mark.parametrize("position", ["x", "-1", "1.5", "99", "9" * 30, "١"])
def test_an_invalid_position(api: Api, position: str) -> None:
    api.append(line("a"))
    for query in ({"after": position}, None):
        headers = {"Last-Event-ID": position.encode()} if query is None else {}
        response = httpx.get(api.path() + "/stream", params=query, headers=headers, timeout=120)
        assert response.status_code == 400
        assert response.json()["error"]["code"] == "INVALID_CURSOR"


def test_resuming_again_and_again_gives_every_entry_once(api: Api) -> None:
    total = 400
    seen: list[int] = []

    def write() -> None:
        for number in range(total):
            api.append(line(f"{number}"))
        api.append(end())

    writer = threading.Thread(target=write)
    writer.start()
    ended = False
    while not ended:
        follower = api.follow(headers={"Last-Event-ID": str(seen[-1])} if seen else {})
        eventually(lambda follower=follower: len(follower.seqs) >= 40 or "end" in follower.kinds)
        follower.leave_at_next_event()
        follower.join()
        ended = "end" in follower.kinds
        seen += [seq for seq in follower.seqs if not seen or seq > seen[-1]]
    writer.join()
    assert seen == list(range(1, total + 2))
    eventually(lambda: api.hub.stream_count == 0 and api.hub.watched_count == 0)


def test_many_streams_share_one_channel(api: Api) -> None:
    streams = 40

    async def follow(client: httpx.AsyncClient) -> bytes:
        async with client.stream("GET", api.path() + "/stream") as response:
            return b"".join([piece async for piece in response.aiter_bytes()])

    async def run() -> list[bytes]:
        limits = httpx.Limits(max_connections=streams)
        async with httpx.AsyncClient(timeout=120, limits=limits) as client:
            tasks = [asyncio.create_task(follow(client)) for _ in range(streams)]
            await asyncio.to_thread(eventually, lambda: api.hub.stream_count == streams)
            assert api.hub.watched_count == 1
            for number in range(100):
                await asyncio.to_thread(api.append, line(f"line {number}"))
            await asyncio.to_thread(api.append, end())
            return await asyncio.gather(*tasks)

    for received in asyncio.run(run()):
        events = [part for part in received.decode().split("\n\n") if "event: " in part]
        data = [json.loads(part.split("data: ")[1]) for part in events]
        seqs = [item["seq"] for event in data for item in event.get("lines", [event])]
        assert seqs == list(range(1, 102))


def test_lost_messages_are_made_up_for(database: Database, redis_url: str) -> None:
    with running_api(database, redis_url, compare=0.2) as api:
        api.append(line("1"))
        follower = api.follow()
        eventually(lambda: follower.seqs == [1])
        silent = SilentNotifier()
        api.append(line("2"), notifier=silent)
        eventually(lambda: follower.seqs == [1, 2])
        # A message that doesn't follow what is known makes the hub read what is between.
        api.append(line("3"), notifier=silent)
        api.append(line("4"))
        api.append(*(line(str(number)) for number in range(3000)), notifier=silent)
        api.append(end())
        assert follower.join().seqs == list(range(1, 3006))


def test_a_false_notification_shows_nothing_that_is_not_stored(api: Api) -> None:
    api.append(line("1"))
    follower = api.follow()
    eventually(lambda: follower.seqs == [1])
    api.notifier.notify(api.id, 1, 1, [line("old again")])
    api.notifier.notify(api.id, 7, 7, [line("far ahead")])
    api.append(line("2"), end())
    assert follower.join().seqs == [1, 2, 3]
    shown = [
        item["text"] for event in follower.events if event.event == "log" for item in json.loads(event.data)["lines"]
    ]
    assert shown == ["1", "2"]


def test_redis_gone_and_back(database: Database, tmp_path: Path) -> None:
    [port] = free_ports(1)
    valkey = ValkeyServer(tmp_path / "valkey", port=port, password=secrets.token_hex(8), is_durable=False)
    valkey.start()
    valkey.wait(120)
    try:
        with running_api(database, valkey.url) as api:
            api.append(line("1"))
            follower = api.follow()
            eventually(lambda: follower.seqs == [1])
            valkey.stop()
            for number in range(2, 30):
                api.append(line(str(number)))
            eventually(lambda: follower.seqs == list(range(1, 30)))
            late = api.follow(params={"after": "20"})
            eventually(lambda: late.seqs == list(range(21, 30)))
            valkey.start()
            valkey.wait(120)
            eventually(lambda: api.hub._listener.is_connected)
            api.append(*(line("x") for _ in range(20)))
            eventually(lambda: follower.seqs == list(range(1, 50)))
            api.append(end())
            assert follower.join().seqs == list(range(1, 51))
            assert late.join().seqs == list(range(21, 51))
    finally:
        valkey.stop()


def test_entries_that_are_no_longer_stored(api: Api) -> None:
    for number in range(10):
        api.append(line(str(number)))
    with api.database.transaction() as connection:
        connection.execute("DELETE FROM log_chunks WHERE deployment_id = %s AND seq_from BETWEEN 3 AND 6", (api.id,))
    api.append(end())
    follower = api.follow().join()
    assert follower.seqs == list(range(1, 12))
    gaps = [json.loads(event.data) for event in follower.events if event.event == "gap"]
    assert gaps == [{"from": 3, "to": 6, "reason": "retention"}]


def test_a_deployment_deleted_while_it_is_watched(database: Database, redis_url: str) -> None:
    with running_api(database, redis_url, compare=0.1) as api:
        api.append(line("1"))
        follower = api.follow()
        eventually(lambda: follower.seqs == [1])
        with database.transaction() as connection:
            connection.execute("DELETE FROM deployments WHERE id = %s", (api.id,))
        assert follower.join().kinds == ["log", "reconnect"]
        assert json.loads(follower.events[-1].data) == {"reason": "revoked"}


def test_heartbeats_and_age(database: Database, redis_url: str) -> None:
    with running_api(database, redis_url, heartbeat=0.05, maximum_age=2.0) as api:
        api.append(line("1"))
        began = time.monotonic()
        received = httpx.get(api.path() + "/stream", timeout=120).text
        took = time.monotonic() - began
    # One each 0.05 s at most; a busy machine makes them fewer.
    assert 1 <= received.count(": hb\n\n") <= took / 0.05 + 1
    assert received.endswith('event: reconnect\ndata: {"reason":"max_age"}\n\n')
    assert "id" not in received.split("event: reconnect")[1]


def test_a_client_that_reads_nothing_is_disconnected(database: Database, redis_url: str) -> None:
    with running_api(database, redis_url, stall=0.3) as api:
        for _ in range(8):
            api.append(*(line("x" * 60_000) for _ in range(20)))
        port = int(api.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(f"GET /api/deployments/{api.id}/logs/stream HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            # Looks without taking: the stream has begun.
            eventually(lambda: b"data: " in client.recv(8192, socket.MSG_PEEK))
            eventually(lambda: api.hub.stream_count == 0)
        # Others are not disturbed.
        api.append(end())
        assert api.follow(params={"after": "160"}).join().seqs == [161]


def test_a_stopping_server_sends_its_clients_away(database: Database, redis_url: str) -> None:
    with running_api(database, redis_url) as api:
        api.append(line("1"))
        followers = [api.follow() for _ in range(5)]
        eventually(lambda: all(follower.seqs == [1] for follower in followers))
        api.server.should_exit = True
        for follower in followers:
            assert follower.join().kinds == ["log", "reconnect"]
            assert json.loads(follower.events[-1].data) == {"reason": "shutdown"}


def test_pages(api: Api) -> None:
    api.append(
        status(),
        *(line(f"c{number}", stage="clone") for number in range(3)),
        *(line(f"b{number}") for number in range(3)),
    )

    def get(**query: Any) -> httpx.Response:
        return httpx.get(api.path(), params=query, timeout=120)

    body = get(limit=2).json()
    assert [item["text"] for item in body["data"]] == ["c0", "c1"]
    assert body["meta"]["pagination"] == {"hasMore": True, "cursor": "3"}
    assert [item["seq"] for item in get(after=3).json()["data"]] == [4, 5, 6, 7]
    assert [item["text"] for item in get(stage="build").json()["data"]] == ["b0", "b1", "b2"]
    assert [item["text"] for item in get(direction="backward", limit=2).json()["data"]] == ["b2", "b1"]
    assert get(after=7).json()["meta"]["pagination"] == {"hasMore": False, "cursor": "7"}
    text = httpx.get(api.path(), headers={"Accept": "text/plain"}, timeout=120)
    assert text.headers["content-type"].startswith("text/plain")
    assert text.text == "c0\nc1\nc2\nb0\nb1\nb2\n"
    assert get(after="x").json()["error"]["code"] == "INVALID_CURSOR"
    assert get(after=2**31 - 1).json()["data"] == []
    # A line that was cut is put together, but not in a reversed order, where its parts come last first.
    api.append(LogLine(timestamp=1, stage="build", stream="stdout", text="cut ", continued=True), line("here"))
    for query, shown in (({"after": 6}, "b2\ncut here\n"), ({"direction": "backward", "limit": 3}, "here\ncut \nb2\n")):
        assert httpx.get(api.path(), params=query, headers={"Accept": "text/plain"}, timeout=120).text == shown
    for query in ({"limit": 0}, {"limit": 1001}, {"stage": "nothing"}, {"direction": "up"}):
        assert 400 <= get(**query).status_code < 500
    assert httpx.head(api.path() + "/stream", timeout=120).status_code == 200
