"""The follower against a real HTTP server that interrupts its streams in every way."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from api.client.errors import ApiError, ExitCode, Unreachable
from api.client.http import ApiClient
from api.client.log_stream import EndEvent, GapEvent, Interruption, LinesEvent, LogEvent, LogFollower, StatusEvent
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration

DEPLOYMENT = {
    "id": "depl_1", "projectId": "proj_1", "project": {"name": "n", "slug": "s"}, "status": "failed", "branch": "main",
    "commitSha": None, "commitMessage": None, "url": None, "buildTimeSeconds": None, "isActive": False,
    "isPreview": False, "createdAt": "2026-01-01T00:00:00Z", "startedAt": None, "finishedAt": "2026-01-01T00:00:01Z",
    "stages": [], "error": {"code": "COMMAND_FAILED", "stage": "build", "message": "It exited with 3."}, "queue": None,
    "createdBy": None, "trigger": "api",
}  # fmt: skip


def frame(event: str, data: object, seq: int | None = None) -> bytes:
    identifier = "" if seq is None else f"id: {seq}\n"
    return f"{identifier}event: {event}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def line(seq: int, text: str = "") -> dict[str, object]:
    return {"seq": seq, "ts": 0, "stage": "build", "stream": "stdout", "text": text or f"line {seq}\u2028\r"}


def log_frame(*seqs: int) -> bytes:
    return frame("log", {"lines": [line(seq) for seq in seqs]}, seqs[-1])


class Connection:
    """One request for the stream, with what a script may do to its socket."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler
        self.last_event_id = int(handler.headers.get("Last-Event-ID") or 0)
        self.path = handler.path
        self.authorization = handler.headers.get("Authorization")

    def open(self, *frames: bytes) -> None:
        self._handler.send_response(200)
        self._handler.send_header("Content-Type", "text/event-stream")
        self._handler.end_headers()
        self.send(b"retry: 10\n\n", *frames)

    def send(self, *frames: bytes) -> None:
        for piece in frames:
            self._handler.wfile.write(piece)
            self._handler.wfile.flush()

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name.replace("_", "-"), value)
        self._handler.send_header("Content-Length", str(len(body)))
        self._handler.end_headers()
        self._handler.wfile.write(body)

    def fail(self, status: int, code: str, **headers: str) -> None:
        error = {"ok": False, "error": {"code": code, "message": "No.", "requestId": "req-1"}}
        self.answer(status, json.dumps(error).encode(), **headers)

    def reset(self) -> None:
        """The connection ends with RST, as when a machine or a proxy dies."""
        self._handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._handler.connection.close()


Script = Callable[[Connection], None]


@contextmanager
def serving(script: Script, port: int = 0) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if "/logs/stream" in self.path:
                script(Connection(self))
            else:
                Connection(self).answer(200, json.dumps({"ok": True, "data": DEPLOYMENT}).encode())
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

        def finish(self) -> None:
            with suppress(OSError, ValueError):
                super().finish()

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def in_turn(*scripts: Script) -> Script:
    waiting = list(scripts)

    def run(connection: Connection) -> None:
        (waiting.pop(0) if len(waiting) > 1 else waiting[0])(connection)

    return run


def follow(url: str, **options: int) -> list[LogEvent]:
    with ApiClient(url, "cfy_token") as client:
        return list(LogFollower(client, "depl_1", pause=lambda _: None, **options).events())


def seqs(events: list[LogEvent]) -> list[int]:
    return [item.seq for event in events if isinstance(event, LinesEvent) for item in event.lines]


END = frame("end", {"status": "ready", "seq": 4, "url": "http://s.localhost"}, 4)


def test_a_whole_stream_in_one_connection() -> None:
    seen: list[Connection] = []

    def script(connection: Connection) -> None:
        seen.append(connection)
        status = {"seq": 1, "status": "building", "stage": "build", "attempt": 2, "queuePosition": 3}
        connection.open(frame("status", status, 1), b": hb\n\n", log_frame(2, 3), frame("news", {}), END)

    with serving(script) as url:
        events = follow(url)
    assert events[0] == StatusEvent(seq=1, status="building", stage="build", attempt=2, queue_position=3)
    assert seqs(events) == [2, 3]
    assert isinstance(events[1], LinesEvent)
    assert events[1].lines[0].text == "line 2\u2028\r"
    assert events[2:] == [EndEvent(status="ready", seq=4, url="http://s.localhost")]
    assert seen[0].authorization == "Bearer cfy_token"


def test_places_in_the_queue_are_passed_on_and_are_no_progress() -> None:
    positions: list[int] = []

    def script(connection: Connection) -> None:
        positions.append(connection.last_event_id)
        queued = {"seq": 1, "status": "queued", "stage": None, "attempt": None}
        if len(positions) == 1:
            entry = frame("status", queued, 1)
            connection.open(entry, frame("status", queued | {"queuePosition": 2}), frame("status", queued, 1))
        else:
            connection.open(frame("status", queued | {"queuePosition": 1}), log_frame(2, 3), END)

    with serving(script) as url:
        events = follow(url)
    places = [event.queue_position for event in events if isinstance(event, StatusEvent)]
    assert places == [None, 2, 1]
    assert positions == [0, 1]
    assert seqs(events) == [2, 3]


def broken_middle_of_frame(connection: Connection) -> None:
    connection.open(log_frame(1), log_frame(2)[:-20])


def reset_after_a_frame(connection: Connection) -> None:
    connection.open(log_frame(1))
    connection.reset()


def repeats_what_was_sent(connection: Connection) -> None:
    connection.open(log_frame(1), log_frame(1), log_frame(1, 2), frame("status", {"seq": 1, "status": "building"}, 1))


def asks_for_a_new_connection(connection: Connection) -> None:
    connection.open(log_frame(1), frame("reconnect", {"reason": "max_age"}))


def is_not_there_yet(connection: Connection) -> None:
    connection.fail(503, "UNAVAILABLE", Retry_After="1")


def has_too_many_streams(connection: Connection) -> None:
    connection.fail(429, "STREAM_LIMIT")


def is_behind_a_dead_proxy(connection: Connection) -> None:
    connection.answer(502, b"<html>Bad gateway</html>")


def says_nothing(connection: Connection) -> None:
    connection.reset()


def rest_of_four(connection: Connection) -> None:
    connection.open(*[log_frame(seq) for seq in range(connection.last_event_id + 1, 4)], END)


@pytest.mark.parametrize(
    "breaks",
    [broken_middle_of_frame, reset_after_a_frame, repeats_what_was_sent, asks_for_a_new_connection, is_not_there_yet,
     has_too_many_streams, is_behind_a_dead_proxy, says_nothing],
)  # fmt: skip
def test_each_line_comes_once_whatever_breaks(breaks: Script) -> None:
    with serving(in_turn(breaks, breaks, rest_of_four)) as url:
        events = follow(url)
    assert seqs(events) == [1, 2, 3]
    assert isinstance(events[-1], EndEvent)
    interruptions = [event for event in events if isinstance(event, Interruption)]
    assert len(interruptions) == 2
    assert all(event.is_problem == (breaks is not asks_for_a_new_connection) for event in interruptions)


@pytest.mark.parametrize("seed", range(5))
def test_five_hundred_lines_through_a_hostile_network(seed: int) -> None:
    chance = random.Random(seed)
    last = 500

    def script(connection: Connection) -> None:
        if chance.random() < 0.1:
            connection.fail(503, "UNAVAILABLE")
            return
        # Overlaps by a few entries, as a server may that doesn't know exactly what arrived.
        begin = max(1, connection.last_event_id + 1 - chance.randrange(3))
        connection.open()
        while begin <= last:
            size = chance.randrange(1, 30)
            piece = log_frame(*range(begin, min(begin + size, last + 1)))
            if chance.random() < 0.3:
                connection.send(piece[: chance.randrange(len(piece))])
                if chance.random() < 0.5:
                    connection.reset()
                return
            connection.send(piece)
            begin += size
        connection.send(frame("end", {"status": "ready", "seq": last + 1}, last + 1))

    with serving(script) as url:
        events = follow(url)
    assert seqs(events) == list(range(1, last + 1))


def test_the_follower_continues_when_the_api_restarts() -> None:
    begun = threading.Event()

    def first(connection: Connection) -> None:
        connection.open(log_frame(1))
        begun.set()

    events: list[LogEvent] = []
    [port] = free_ports(1)
    with serving(first, port) as url:
        client = ApiClient(url, "cfy_token")
        follower = LogFollower(client, "depl_1", pause=lambda _: None)
        stream = follower.events()
        events.append(next(stream))
    # Nothing listens now: two attempts are refused before the API is back on the same port.
    while sum(isinstance(event, Interruption) for event in events) < 3:
        events.append(next(stream))
    with serving(rest_of_four, port):
        events.extend(stream)
    client.close()
    assert seqs(events) == [1, 2, 3]
    assert follower.last_seq == 4


def test_tail_is_asked_for_until_there_is_a_position() -> None:
    paths: list[tuple[str, int]] = []

    def script(connection: Connection) -> None:
        paths.append((connection.path.partition("?")[2], connection.last_event_id))
        [is_not_there_yet, broken_middle_of_frame, rest_of_four][len(paths) - 1](connection)

    with serving(script) as url:
        follow(url, tail=5)
    assert paths == [("tail=5", 0), ("tail=5", 0), ("", 1)]


def test_a_finished_log_that_was_read_ends_with_the_deployment_itself() -> None:
    with serving(lambda connection: connection.answer(204)) as url:
        [end] = follow(url, after=9)
    assert isinstance(end, EndEvent)
    assert end.status == "failed"
    assert end.error is not None
    assert end.error.code == "COMMAND_FAILED"


def test_a_gap_is_passed_on_and_moves_the_position() -> None:
    gap = frame("gap", {"from": 1, "to": 3, "reason": "retention"}, 3)
    with serving(lambda connection: connection.open(gap, log_frame(3), END)) as url:
        events = follow(url)
    assert events[0] == GapEvent(first=1, last=3, reason="retention")
    assert isinstance(events[1], EndEvent)


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [(401, "UNAUTHENTICATED", ExitCode.NOT_AUTHENTICATED), (404, "NOT_FOUND", ExitCode.NOT_FOUND),
     (400, "INVALID_CURSOR", ExitCode.USAGE)],
)  # fmt: skip
def test_an_error_that_no_retry_can_fix_ends_it(status: int, code: str, exit_code: ExitCode) -> None:
    with serving(lambda connection: connection.fail(status, code)) as url, pytest.raises(ApiError) as caught:
        follow(url)
    assert caught.value.exit_code is exit_code
    assert caught.value.request_id == "req-1"


def test_something_else_at_the_address_is_a_clear_error() -> None:
    with serving(lambda connection: connection.answer(200, b"hello")) as url:
        with pytest.raises(Unreachable, match="not with a log stream"):
            follow(url)


@pytest.mark.parametrize(("was_connected", "seconds"), [(False, 10), (True, 600)])
def test_gives_up_after_a_while(*, was_connected: bool, seconds: float) -> None:
    now = 0.0

    def pause(wait: float) -> None:
        nonlocal now
        now += wait

    script = in_turn(reset_after_a_frame, says_nothing) if was_connected else says_nothing
    with serving(script) as url, ApiClient(url, "t") as client:
        follower = LogFollower(client, "depl_1", pause=pause, monotonic=lambda: now)
        with pytest.raises(Unreachable):
            list(follower.events())
    assert seconds < now < seconds + 40
