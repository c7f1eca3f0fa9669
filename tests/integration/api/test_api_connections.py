"""What the API's server does with connections: bounds, slow bodies, hosts, and a graceful end."""

from __future__ import annotations

import asyncio
import json
import select
import shutil
import subprocess
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pytest
import structlog
import uvicorn

from api.edge.body_budget import UNCOUNTED_BYTES, BodyBudget
from api.edge.connection import MAXIMUM_HEAD_BYTES, MAXIMUM_HEADERS, MAXIMUM_WAITING, Connection, ConnectionState
from api.edge.places import Places
from api.edge.request_body import BodyPace
from api.middleware import MAXIMUM_PARAMETERS, MAXIMUM_TARGET_BYTES
from shared.stack.server import program
from tests.support.api_server import TIMEOUT_SECONDS, RawClient, RunningServer, running_server
from tests.support.log_rows import eventually
from tests.support.ports import free_ports

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /text HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def error_code(body: bytes) -> str:
    return json.loads(body)["error"]["code"]


def assert_edge(headers: dict[str, str], body: bytes) -> None:
    """Checks what every response has, whichever layer sends it."""
    assert headers["x-request-id"] == json.loads(body)["error"]["requestId"]
    assert headers["api-version"] == "2026-02-12"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


@asynccontextmanager
async def accepted(application: Any) -> AsyncGenerator[tuple[Connection, asyncio.StreamReader, asyncio.StreamWriter]]:
    """One connection of the server's kind, in this loop, and its client's ends."""
    connections: asyncio.Queue[Connection] = asyncio.Queue()
    config = uvicorn.Config(application, log_config=None, timeout_keep_alive=int(TIMEOUT_SECONDS))
    config.load()
    state = ConnectionState()

    def accept() -> Connection:
        connection = Connection(config, state, {})
        connections.put_nowait(connection)
        return connection

    listening = await asyncio.get_running_loop().create_server(accept, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*listening.sockets[0].getsockname())
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            yield await connections.get(), reader, writer
    finally:
        writer.close()
        listening.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server(hosts=["api.example.com"]) as running:
        yield running


# Bodies


@pytest.mark.parametrize("pace", [BodyPace(0.05, 4096, 60.0), BodyPace(60.0, 4096, 0.05)])
@pytest.mark.parametrize("framing", [b"Content-Length: 1000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"])
def test_a_body_that_comes_too_slowly_is_given_up(pace: BodyPace, framing: bytes) -> None:
    with running_server(pace=pace) as server:
        clients = [server.connect().send(POST + framing) for _ in range(20)]
        for client in clients:
            status, headers, body = client.answer()
            assert (status, error_code(body)) == (408, "REQUEST_TIMEOUT")
            assert headers["connection"] == "close"
            assert client.has_ended()
        eventually(lambda: not server.server.server_state.connections, TIMEOUT_SECONDS)
        assert server.connect().send(POST + b"Content-Length: 2\r\n\r\n{}").answer()[0] == 200


def is_in_body(server: RunningServer, client: RawClient) -> bool:
    """Whether the server has read the head of the client's request, and waits for the rest of the body."""
    port = client.socket.getsockname()[1]
    found = [each for each in server.server.server_state.connections if each.client[1] == port]
    return [each._is_in_head for each in found] == [False]


@pytest.mark.parametrize("first", [1_000, 17_000, 60_000])
@pytest.mark.parametrize("framing", [b"Content-Length: 14\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\ne\r\n"])
def test_a_body_says_nothing_of_the_next_one(server: RunningServer, first: int, framing: bytes) -> None:
    client = server.connect()
    for _ in range(3):
        text = b'{"text": "%s"}' % (b"x" * first)
        assert client.send(POST + b"Content-Length: %d\r\n\r\n" % len(text)).send(text).answer()[0] == 200
        client.send(POST + framing)
        eventually(lambda: is_in_body(server, client), TIMEOUT_SECONDS)
        client.send(b'{"text": "abc"' if b"Length" not in framing else b'{"text": "ab"}')
        if b"Length" not in framing:
            client.send(b"\r\n1\r\n}\r\n0\r\n\r\n")
        assert client.answer()[0] == 200


def test_a_client_that_leaves_in_mid_body_is_no_error(server: RunningServer) -> None:
    with structlog.testing.capture_logs() as logs:
        for ending in (b"Content-Length: 1000\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"):
            server.connect().send(POST + ending).close()
        eventually(lambda: sum(line["event"] == "request" for line in logs) == 2, TIMEOUT_SECONDS)
    assert [line["status"] for line in logs] == [499, 499]
    assert {line["log_level"] for line in logs} == {"info"}


def test_a_large_body_that_is_not_needed_is_not_read_to_its_end(server: RunningServer) -> None:
    client = server.connect()
    client.send(b"POST /unread HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000000\r\n\r\n")
    status, headers, body = client.answer()
    assert (status, headers["connection"], body) == (200, "close", b'"unread"' if body[:1] == b'"' else b"unread")
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        client.send(b"x" * 1_000_000_000)
    small = server.connect()
    small.send(b"POST /unread HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n" + b"x" * 10)
    assert "connection" not in small.answer()[1]
    assert small.get()[0] == 200


@pytest.mark.parametrize("body", [b"0\r\n\r\n", b"1\r\n{\r\n0\r\n\r\n"])
def test_a_chunked_body_that_has_ended_keeps_its_connection(server: RunningServer, body: bytes) -> None:
    client = server.connect()
    client.send(b"POST /unread HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert "connection" not in client.answer()[1]
    assert client.get()[0] == 200


@pytest.mark.parametrize("framing", [b"Content-Length: 2\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_that_waits_to_be_asked_for_and_never_is_ends_its_connection(
    server: RunningServer, framing: bytes
) -> None:
    """The client doesn't send it, and its next request would be taken for it."""
    expecting = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\nExpect: 100-Continue\r\n" + framing + b"\r\n"
    client = server.connect().send(b"POST /unread HTTP/1.1\r\n" + expecting)
    status, headers, _ = client.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert client.has_ended()
    client = server.connect().send(b"POST /text HTTP/1.1\r\n" + expecting)
    assert client.answer()[0] == 100
    client.send(b"{}" if framing.startswith(b"Content") else b"2\r\n{}\r\n0\r\n\r\n")
    assert "connection" not in client.answer()[1]
    assert client.get()[0] == 200


def test_a_caller_has_so_many_bytes_of_bodies_on_their_way() -> None:
    size = 4 * UNCOUNTED_BYTES
    body = b'{"text":"' + b"x" * (size - 11) + b'"}'
    head = POST + b"Content-Length: %d\r\n\r\n" % size
    budget = BodyBudget(of_a_caller=size)
    with running_server(budget=budget) as server:
        held = server.connect().send(head + body[:-1])
        eventually(lambda: budget._total == size - 1 - UNCOUNTED_BYTES, TIMEOUT_SECONDS)
        status, headers, answer = server.connect().send(head + body).answer()
        assert (status, error_code(answer), headers["retry-after"]) == (503, "UNAVAILABLE", "2")
        assert server.connect().send(POST + b"Content-Length: 2\r\n\r\n{}").answer()[0] == 200
        assert held.send(body[-1:]).answer()[0] == 200
        eventually(lambda: budget._total == 0, TIMEOUT_SECONDS)
        assert server.connect().send(head + body).answer()[0] == 200
        server.connect().send(head + body[:-1]).close()
        assert held.get()[0] == 200
        eventually(lambda: (budget._total, len(budget._held)) == (0, 0), TIMEOUT_SECONDS)


# Bounds


def test_a_head_is_bounded(server: RunningServer) -> None:
    for head in (
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * MAXIMUM_HEAD_BYTES,
        b"GET /" + b"x" * (MAXIMUM_HEAD_BYTES + 1),
        b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * MAXIMUM_HEAD_BYTES,
        # Whole heads, that one read brings.
        b"GET /?" + b"a&" * (MAXIMUM_HEAD_BYTES // 2) + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * MAXIMUM_HEAD_BYTES + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a:\r\n" * (MAXIMUM_HEADERS + 1) + b"\r\n",
    ):
        client = server.connect()
        status, headers, body = client.send(head).answer()
        assert (status, headers["connection"], error_code(body)) == (413, "close", "PAYLOAD_TOO_LARGE")
        assert_edge(headers, body)
        assert client.has_ended()


def test_heads_that_clients_and_proxies_send_are_taken(server: RunningServer) -> None:
    many = b"".join(b"X-%d: %s\r\n" % (number, b"x" * 50) for number in range(MAXIMUM_HEADERS - 1))
    for headers in (b"Authorization: Bearer " + b"x" * 8192 + b"\r\nCookie: " + b"x" * 4096 + b"\r\n", many):
        assert server.connect().send(GET[:-2] + headers + b"\r\n").answer()[0] == 200


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/?" + b"&".join([b"a"] * MAXIMUM_PARAMETERS), 200),
        (b"/?" + b"&".join([b"a"] * (MAXIMUM_PARAMETERS + 1)), 413),
        (b"/?" + b"a" * (MAXIMUM_TARGET_BYTES - 1), 200),
        (b"/?" + b"a" * MAXIMUM_TARGET_BYTES, 413),
        (b"/" * (MAXIMUM_TARGET_BYTES + 1), 413),
    ],
)
def test_an_address_is_bounded(server: RunningServer, target: bytes, status: int) -> None:
    answered, headers, body = server.connect().send(b"GET " + target + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").answer()
    assert answered == status
    if status == 413:
        assert error_code(body) == "PAYLOAD_TOO_LARGE"
        assert_edge(headers, body)


@pytest.mark.parametrize("waiting", [MAXIMUM_WAITING, MAXIMUM_WAITING + 1, 1000])
def test_few_requests_wait_on_a_connection(waiting: int) -> None:
    with running_server() as server:
        client = server.connect().send(SLOW + GET * waiting)
        if waiting <= MAXIMUM_WAITING:
            server.released.set()
            assert [client.answer()[0] for _ in range(1 + waiting)] == [200] * (1 + waiting)
        else:
            assert client.has_ended()
            eventually(lambda: not server.server.server_state.connections, TIMEOUT_SECONDS)


def test_nothing_is_read_while_a_request_waits() -> None:
    async def scenario() -> None:
        permits = asyncio.Semaphore(0)

        async def application(_scope: Any, _receive: Any, send: Any) -> None:
            await permits.acquire()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

        async with accepted(application) as (connection, reader, writer):
            writer.write(GET * 3)
            for waiting in (1, 0):
                permits.release()
                await reader.readuntil(b"\r\n\r\n")
                assert (len(connection.pipeline), connection.flow.read_paused) == (waiting, True)
            permits.release()
            await reader.readuntil(b"\r\n\r\n")
            assert not connection.flow.read_paused

    asyncio.run(scenario())


def test_a_request_with_others_behind_it_sees_its_client_leave() -> None:
    async def scenario() -> None:
        begun, left = asyncio.Event(), asyncio.Event()

        async def application(_scope: Any, receive: Any, _send: Any) -> None:
            while (await receive())["type"] != "http.disconnect":
                begun.set()
            left.set()

        async with accepted(application) as (connection, _, writer):
            writer.write(GET * 2)
            await begun.wait()
            connection.transport.abort()
            await left.wait()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"no HTTP\r\n\r\n", [400]),
        (GET + b"no HTTP\r\n\r\n", []),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n", [400]),
    ],
)
def test_malformed_http_is_answered_where_no_other_answer_is_awaited(
    server: RunningServer, sent: bytes, answers: list[int]
) -> None:
    client = server.connect().send(sent)
    for status in answers:
        answered, headers, body = client.answer()
        assert (answered, error_code(body)) == (status, "MALFORMED_JSON")
        assert_edge(headers, body)
    assert client.has_ended()


def test_a_head_behind_a_large_body_is_not_taken_for_a_large_head(server: RunningServer) -> None:
    """As a client sends them that doesn't wait for answers; one read brings the body and a part of the next head."""
    body = b'{"text":"' + b"x" * (MAXIMUM_HEAD_BYTES + 1000) + b'"}'
    client = server.connect()
    client.send(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    assert client.answer()[0] == 200
    assert client.send(b"\r\n").answer()[0] == 200


def test_the_framing_of_a_body_is_bounded(server: RunningServer) -> None:
    beginning = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    small = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"text":"' + b"x" * 20_000 + b'"}')
    assert server.connect().send(beginning + small + b"0\r\n\r\n").answer()[0] == 200
    for endless in (b"1;" + b"x" * 3 * MAXIMUM_HEAD_BYTES, b"0\r\n" + b"a:b\r\n" * MAXIMUM_HEAD_BYTES):
        client = server.connect()
        client.send(beginning)
        try:
            client.send(endless)
        except ConnectionError:
            continue
        assert client.has_ended()


def test_an_address_has_so_many_connections() -> None:
    with running_server(places=Places(most_of_an_address=3, uncounted=())) as server:
        clients = [server.connect() for _ in range(3)]
        assert [client.get()[0] for client in clients] == [200] * 3
        refused = server.connect()
        status, headers, body = refused.answer()
        assert (status, error_code(body), headers["connection"]) == (503, "UNAVAILABLE", "close")
        assert_edge(headers, body)
        assert refused.has_ended()
        clients.pop().close()
        eventually(lambda: len(server.server.server_state.connections) == 2, TIMEOUT_SECONDS)
        assert server.connect().get()[0] == 200
    with running_server(places=Places(most_of_an_address=3)) as server:
        assert [client.get()[0] for client in [server.connect() for _ in range(10)]] == [200] * 10


def test_all_connections_together_are_bounded() -> None:
    """Those of this machine, too, which nobody else's are ended for."""
    with running_server(places=Places(most=2)) as server:
        clients = [server.connect() for _ in range(2)]
        assert [client.get()[0] for client in clients] == [200] * 2
        refused = server.connect()
        assert refused.answer()[0] == 503
        assert refused.has_ended()
        clients.pop().close()
        eventually(lambda: len(server.server.server_state.connections) == 1, TIMEOUT_SECONDS)
        assert server.connect().get()[0] == 200


def test_a_process_without_room_ends_an_idle_connection_of_the_holder_of_most() -> None:
    with running_server(places=Places(most=3, uncounted=())) as server:
        places = server.server.server_state.places
        busy = server.connect().send(SLOW)
        assert server.entered.wait(TIMEOUT_SECONDS)
        idle = [server.connect() for _ in range(2)]
        assert [client.get()[0] for client in idle] == [200] * 2
        [connection] = [one for one in server.server.server_state.connections if not one.is_idle]
        asyncio.run_coroutine_threadsafe(_take(places), connection.loop).result(TIMEOUT_SECONDS)
        assert idle[0].has_ended()
        assert idle[1].get()[0] == 200
        server.released.set()
        assert busy.answer()[0] == 200


async def _take(places: Places) -> None:
    assert places.take(Mock(), "192.0.2.1")


# Hosts


@pytest.mark.parametrize(
    ("request_line", "hosts", "status"),
    [
        ("GET / HTTP/1.1", ["127.0.0.1"], 200),
        ("GET / HTTP/1.1", ["API.example.com.:8000"], 200),
        ("GET / HTTP/1.1", ["rebound.example.com"], 421),
        ("GET /nothing HTTP/1.1", ["rebound.example.com"], 421),
        ("HEAD / HTTP/1.1", ["rebound.example.com"], 421),
        ("OPTIONS / HTTP/1.1", ["rebound.example.com"], 421),
        ("GET / HTTP/1.1", [], 400),
        ("GET / HTTP/1.1", [""], 400),
        ("GET / HTTP/1.1", ["127.0.0.1", "127.0.0.1"], 400),
        ("GET / HTTP/1.1", ["127.0.0.1", "rebound.example.com"], 400),
        ("GET / HTTP/1.0", [], 200),
        ("GET / HTTP/1.0", ["rebound.example.com"], 421),
        ("GET http://rebound.example.com/ HTTP/1.1", ["127.0.0.1"], 421),
        ("GET http://127.0.0.1@rebound.example.com:80/ HTTP/1.1", ["127.0.0.1"], 421),
        ("GET http://[::1]:80/ HTTP/1.1", ["rebound.example.com"], 200),
        ("GET http://api.example.com/ HTTP/1.1", ["127.0.0.1"], 200),
    ],
)
def test_only_known_hosts_are_answered(server: RunningServer, request_line: str, hosts: list[str], status: int) -> None:
    lines = [request_line, *(f"Host: {host}" for host in hosts), "", ""]
    client = server.connect().send("\r\n".join(lines).encode())
    if request_line.startswith("HEAD"):
        assert client.socket.recv(12) == f"HTTP/1.1 {status}".encode()
        return
    answered, headers, body = client.answer()
    assert answered == status
    if status == 421:
        assert error_code(body) == "MISDIRECTED_REQUEST"
    if status >= 400:
        assert headers["x-request-id"] == json.loads(body)["error"]["requestId"]


# The end of a connection


def test_an_idle_connection_ends_and_a_used_one_does_not() -> None:
    with running_server(keep_alive_seconds=0.2) as server:
        client = server.connect()
        assert client.get()[0] == 200
        assert client.has_ended()
    with running_server(keep_alive_seconds=TIMEOUT_SECONDS) as server:
        client = server.connect()
        assert [client.get()[0] for _ in range(5)] == [200] * 5


def test_a_stopping_server_answers_requests_that_have_begun_and_those_on_idle_connections() -> None:
    with running_server(draining_seconds=TIMEOUT_SECONDS) as server:
        busy, idle, silent = server.connect(), server.connect(), server.connect()
        assert [idle.get()[0], silent.get()[0]] == [200, 200]
        busy.send(SLOW)
        assert server.entered.wait(TIMEOUT_SECONDS)
        server.stop()
        eventually(lambda: server.server.server_state.is_draining, TIMEOUT_SECONDS)
        status, headers, _ = idle.get()
        assert (status, headers["connection"]) == (200, "close")
        assert idle.has_ended()
        server.released.set()
        status, headers, _ = busy.answer()
        assert (status, headers["connection"]) == (200, "close")
        assert busy.has_ended()
        silent.close()


def test_a_stopping_server_closes_connections_that_stay_idle() -> None:
    with running_server(draining_seconds=0.1) as server:
        idle, unused = server.connect(), server.connect()
        assert idle.get()[0] == 200
        server.stop()
        assert idle.has_ended()
        assert unused.has_ended()


def test_a_request_that_a_busy_loop_has_not_read_yet_is_no_idle_connection() -> None:
    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def scenario() -> None:
        answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n"
        async with accepted(application) as (connection, reader, writer):
            for is_stopping in (False, True):
                writer.write(GET)
                assert await reader.readuntil(b"\r\n\r\n") == answer + b"\r\n"
                connection.transport.pause_reading()
                writer.write(GET)
                poll = select.poll()
                poll.register(connection.transport.get_extra_info("socket").fileno(), select.POLLIN)
                assert await asyncio.to_thread(poll.poll, TIMEOUT_SECONDS * 1000)
                if is_stopping:
                    connection._state.is_draining = True
                    connection.shutdown()
                else:
                    connection.timeout_keep_alive_handler()
                assert not connection.transport.is_closing()
                connection.transport.resume_reading()
                ending = b"connection: close\r\n\r\n" if is_stopping else b"\r\n"
                assert await reader.readuntil(b"\r\n\r\n") == answer + ending
            assert await reader.read() == b""

    asyncio.run(scenario())


@contextmanager
def caddy_before(server: RunningServer, directory: Path, options: str, global_options: str = "") -> Iterator[str]:
    """A Caddy in front of the server, which answers already; gives its URL."""
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    configuration = directory / "Caddyfile"
    configuration.write_text(
        f"{{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n{global_options}}}\n"
        f"{url} {{\n\treverse_proxy 127.0.0.1:{server.port} {{\n{options}\t}}\n}}\n"
    )
    command = [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(configuration)]
    environment = {"XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory), "PATH": "/usr/bin:/bin"}
    caddy = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS) as client:
            eventually(lambda: _answers(client), TIMEOUT_SECONDS)
        yield url
    finally:
        caddy.terminate()
        caddy.wait(TIMEOUT_SECONDS)
        shutil.rmtree(directory, ignore_errors=True)


def test_no_request_through_caddy_meets_a_closing_connection(tmp_path: Path) -> None:
    """Caddy keeps connections to its upstream; requests, POSTs among them, keep coming while these end."""
    keep_alive = "\t\ttransport http {\n\t\t\tkeepalive 200ms\n\t\t}\n"
    with (
        running_server(keep_alive_seconds=0.3) as server,
        caddy_before(server, tmp_path, keep_alive) as url,
        httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS) as client,
    ):
        pause = threading.Event()
        statuses: list[int] = []
        for number in range(60):
            # Around the ends of both keep-alives.
            pause.wait(0.19 + 0.002 * (number % 10) if number % 2 else 0.0)
            statuses.append(client.post("/text", json={"text": "x"}).status_code)
        assert statuses == [200] * 60


APPENDING = "\tservers {\n\t\ttrusted_proxies static private_ranges\n\t}\n"


@pytest.mark.parametrize("global_options", ["", APPENDING], ids=["replacing", "appending"])
def test_the_client_of_a_trusted_caddy_is_the_one_that_caddy_names(tmp_path: Path, global_options: str) -> None:
    forged = {"X-Forwarded-For": "203.0.113.66"}
    from_elsewhere = httpx.HTTPTransport(local_address="127.0.0.2")
    with (
        running_server(trusted_proxies=["127.0.0.1/32"]) as server,
        caddy_before(server, tmp_path, "", global_options) as url,
        httpx.Client(transport=from_elsewhere, timeout=TIMEOUT_SECONDS, headers=forged) as client,
    ):
        for address in (url, f"http://127.0.0.1:{server.port}"):
            assert client.get(f"{address}/client").text == "127.0.0.2"
        assert httpx.get(f"http://127.0.0.1:{server.port}/client", headers=forged).text == "203.0.113.66"


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/").status_code == 200
    except httpx.TransportError:
        return False
