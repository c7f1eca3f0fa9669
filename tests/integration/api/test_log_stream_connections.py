"""Clients that read nothing or very slowly, or vanish silently, leave nothing behind in the process."""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import httpx
import psutil
import pytest

from shared.db.database import Database
from shared.logs.store import PostgresLogStore
from tests.support.log_rows import end, eventually, line, new_deployment
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration

CLIENTS = 100
_PROGRAM = "tests.support.stream_program"


@dataclass
class Program:
    process: subprocess.Popen[bytes]
    address: str
    port: int
    database: Database
    deployment_id: str

    @property
    def path(self) -> str:
        return f"/api/deployments/{self.deployment_id}/logs/stream"

    def held(self) -> dict[str, int]:
        """What streams may have left behind in the process."""
        return httpx.get(f"http://{self.address}:{self.port}/state", timeout=120).json()

    def connections(self) -> int:
        """Those the kernel keeps to any client, owned by the process or left to die."""
        over = (psutil.CONN_LISTEN, psutil.CONN_TIME_WAIT)
        return sum(
            found.laddr.port == self.port and found.status not in over for found in psutil.net_connections(kind="tcp")
        )

    def append(self, *texts: str) -> None:
        store = PostgresLogStore(self.database)
        with self.database.transaction() as connection:
            store.append(connection, self.deployment_id, [line(text) for text in texts], fence=None)


@contextmanager
def running_program(
    database: Database, database_url: str, redis_url: str, address: str = "127.0.0.1", **timing: float
) -> Iterator[Program]:
    [port] = free_ports(1)
    arguments = [str(port), database_url, redis_url, json.dumps({"poll": 0.1, "compare": 0.1, **timing}), address]
    process = subprocess.Popen([sys.executable, "-m", _PROGRAM, *arguments])
    try:
        program = Program(process, address, port, database, new_deployment(database))
        eventually(lambda: answers(program))
        yield program
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()


def answers(program: Program) -> bool:
    assert program.process.poll() is None, "the program has ended"
    try:
        return bool(program.held())
    except httpx.TransportError:
        return False


@contextmanager
def stalled_clients(program: Program, count: int, *prefix: str) -> Iterator[subprocess.Popen[str]]:
    """A process with so many streams that it doesn't read."""
    module = [sys.executable, "-m", "tests.support.stalled_clients"]
    arguments = [program.address, str(program.port), program.path, str(count)]
    clients = subprocess.Popen([*prefix, *module, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        assert clients.stdout is not None
        assert clients.stdout.readline() == "open\n"
        yield clients
    finally:
        clients.kill()
        clients.communicate()


def test_clients_that_read_nothing_are_cut_off(database: Database, database_url: str, redis_url: str) -> None:
    with running_program(database, database_url, redis_url, stall=0.3, slow_notice=0.2, silence=0.5) as program:
        for _ in range(8):
            program.append(*("x" * 60_000 for _ in range(20)))
        before = program.held()
        with stalled_clients(program, CLIENTS):
            # The clients are there still, and read nothing.
            eventually(lambda: program.held() == before)
            eventually(lambda: program.connections() == 0)


def test_a_client_that_takes_a_little_at_a_time(database: Database, database_url: str, redis_url: str) -> None:
    with running_program(database, database_url, redis_url, stall=0.3, slow_notice=0.2, silence=3.0) as program:
        for _ in range(8):
            program.append(*("x" * 60_000 for _ in range(20)))
        before = program.held()
        is_over = threading.Event()
        taken = bytearray()

        def take() -> None:
            with socket.socket() as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect((program.address, program.port))
                client.sendall(f"GET {program.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                try:
                    while not is_over.wait(0.02):
                        taken.extend(client.recv(64))
                except ConnectionResetError:
                    """It was cut off."""

        reader = threading.Thread(target=take)
        reader.start()
        try:
            # It has begun, or was too slow for even that.
            eventually(lambda: bool(taken) or not reader.is_alive())
            eventually(lambda: program.held() == before)
            eventually(lambda: program.connections() == 0)
        finally:
            is_over.set()
            reader.join()


@pytest.fixture
def far_away() -> Iterator[FarAway]:
    with FarAway.made() as network:
        yield network


@dataclass
class FarAway:
    """A network namespace on the other end of a cable that can be cut."""

    name: str
    address: str

    @classmethod
    @contextmanager
    def made(cls) -> Generator[FarAway]:
        if shutil.which("ip") is None:
            pytest.skip("needs the command ip, to put clients behind a cable that can be cut")
        suffix = secrets.token_hex(3)
        name, here, there = f"cloudify-{suffix}", f"cl{suffix}a", f"cl{suffix}b"
        # 198.18.0.0/15 is set aside for tests (RFC 2544).
        subnet = f"198.18.{secrets.randbelow(256)}"
        with ExitStack() as stack:
            if not ip("netns", "add", name):
                pytest.skip("may not make a network namespace, to put clients behind a cable that can be cut")
            stack.callback(ip, "netns", "del", name)
            made = ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
            stack.callback(ip, "link", "del", here)
            made = made and all((
                ip("addr", "add", f"{subnet}.1/24", "dev", here),
                ip("link", "set", here, "up"),
                ip("-n", name, "addr", "add", f"{subnet}.2/24", "dev", there),
                ip("-n", name, "link", "set", there, "up"),
            ))  # fmt: skip
            if not made:
                pytest.skip("may not make a pair of network devices, to put clients behind a cable that can be cut")
            yield cls(name, f"{subnet}.1")

    def cut(self) -> None:
        """Loses all packets from now on, without an error."""
        links = subprocess.run(["ip", "-n", self.name, "-br", "link"], capture_output=True, text=True, check=True)
        for link in links.stdout.split("\n"):
            if "@" in link:
                assert ip("-n", self.name, "link", "set", link.partition("@")[0], "down")


def ip(*arguments: str) -> bool:
    return subprocess.run(["ip", *arguments], capture_output=True, check=False).returncode == 0


def test_clients_that_vanish_silently(database: Database, database_url: str, redis_url: str, far_away: FarAway) -> None:
    """Half of them have streams, which send heartbeats; the others never finish their request."""
    timing = {"heartbeat": 0.2, "silence": 1.0}
    with running_program(database, database_url, redis_url, far_away.address, **timing) as program:
        program.append("1")
        before = program.held()
        within = ("ip", "netns", "exec", far_away.name)
        with stalled_clients(program, CLIENTS, *within), half_asked(program, CLIENTS, *within):
            eventually(lambda: program.held()["streams"] == CLIENTS)
            eventually(lambda: program.connections() >= 2 * CLIENTS)
            far_away.cut()
            eventually(lambda: program.held() == before)
            eventually(lambda: program.connections() == 0)
        program.append("2")
        with program.database.transaction() as connection:
            PostgresLogStore(program.database).append(connection, program.deployment_id, [end()], fence=None)
        received = httpx.get(f"http://{program.address}:{program.port}{program.path}", timeout=120).text
        assert "event: end" in received


def test_clients_that_never_finish_asking_are_cut_off(database: Database, database_url: str, redis_url: str) -> None:
    with running_program(database, database_url, redis_url, asking=3.0) as program:
        before = program.held()["connections"]

        def others() -> int:
            try:
                return program.held()["connections"] - before
            except httpx.TransportError:
                # On a slow machine this one may be cut off itself.
                return -1

        with (
            half_asked(program, CLIENTS),
            socket.create_connection((program.address, program.port)) as follower,
            socket.create_connection((program.address, program.port)) as second,
        ):
            follower.settimeout(120)
            follower.sendall(f"GET {program.path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            # Half a request after a whole one, too.
            second.sendall(b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\nGET /state HTTP/1.1\r\nHos")
            eventually(lambda: others() == 1)
            # Only the stream is left, which was requested long ago and continues.
            program.append("still here")
            received = b""
            while b"still here" not in received:
                piece = follower.recv(4096)
                assert piece, "the stream was closed"
                received += piece
        eventually(lambda: others() == 0)


@contextmanager
def half_asked(program: Program, count: int, *prefix: str) -> Iterator[None]:
    """Connections that have sent half a request."""
    code = (
        "import socket, sys, signal\n"
        f"clients = [socket.create_connection(('{program.address}', {program.port})) for _ in range({count})]\n"
        "for client in clients: client.sendall(b'GET / HTTP/1.1\\r\\nHost')\n"
        "print('open', flush=True)\n"
        "signal.pause()\n"
    )
    clients = subprocess.Popen([*prefix, sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert clients.stdout is not None
        assert clients.stdout.readline() == "open\n"
        yield
    finally:
        clients.kill()
        clients.communicate()
