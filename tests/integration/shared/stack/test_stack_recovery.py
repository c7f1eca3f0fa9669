"""Embedded servers that were killed start again at once, whatever their lock files and their dead processes say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from shared.stack.home import Home
from shared.stack.leftovers import is_gone, processes_of
from shared.stack.postgres import PostgresServer
from shared.stack.valkey import ValkeyServer
from tests.support.ports import free_ports

pytestmark = pytest.mark.integration

PASSWORD = "not-a-secret"
# Starts a server and, like a first process that is busy with other things, doesn't collect it until it is asked to.
PARENT = """
import sys
from pathlib import Path
from shared.stack.{module} import {server}
server = {server}(Path(sys.argv[1]), port=int(sys.argv[2]), password=sys.argv[3])
server.start()
server.wait(120)
print(server.process.pid, flush=True)
sys.stdin.readline()
server.process.wait()
print("collected", flush=True)
sys.stdin.readline()
"""


class Parent:
    def __init__(self, module: str, server: str, directory: Path, port: int) -> None:
        code = PARENT.format(module=module, server=server)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, directory, str(port), PASSWORD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.pid = int(self._process.stdout.readline())

    def collect(self) -> None:
        self._say()
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "collected\n"

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _say(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def database(tmp_path: Path) -> PostgresServer:
    return PostgresServer(tmp_path / "postgres", port=free_ports(1)[0], password=PASSWORD)


def works(server: PostgresServer) -> bool:
    with psycopg.connect(server.url) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def start(server: PostgresServer | ValkeyServer, stack: ExitStack) -> None:
    stack.callback(server.stop)
    server.start()
    server.wait(120)


def test_postgres_starts_while_its_killed_predecessor_is_a_zombie_and_after(
    database: PostgresServer, stack: ExitStack
) -> None:
    parent = stack.enter_context(closing(Parent("postgres", "PostgresServer", database.directory, database.port)))
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept (n int)")
    os.kill(parent.pid, signal.SIGKILL)
    until(lambda: is_zombie(parent.pid))
    start(database, stack)
    assert is_zombie(parent.pid)
    with psycopg.connect(database.url) as connection:
        connection.execute("SELECT n FROM kept")
    # Collected later, it is nobody's business any more.
    parent.collect()
    assert works(database)
    assert database.process is not None
    database.process.kill()
    database.process.wait()
    start(database, stack)
    assert works(database)


def test_postgres_starts_though_its_old_number_is_another_programs(database: PostgresServer, stack: ExitStack) -> None:
    start(database, stack)
    assert database.process is not None
    other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    stack.callback(other.communicate)
    database.process.kill()
    database.process.wait()
    lock = database.directory / "data" / "postmaster.pid"
    first, _, rest = lock.read_text().partition("\n")
    assert int(first) == database.process.pid
    lock.write_text(f"{other.pid}\n{rest}")
    start(database, stack)
    assert works(database)
    assert other.poll() is None


@pytest.mark.parametrize("content", ["", "\n", "not a number\n", "99999999999999999999\n"])
def test_postgres_starts_with_a_damaged_lock_file(database: PostgresServer, stack: ExitStack, content: str) -> None:
    start(database, stack)
    assert database.process is not None
    database.process.kill()
    database.process.wait()
    (database.directory / "data" / "postmaster.pid").write_text(content)
    start(database, stack)
    assert works(database)


def test_postgres_starts_though_a_child_of_the_killed_one_stopped(database: PostgresServer, stack: ExitStack) -> None:
    """The child is attached to the old server's shared memory, and PostgreSQL refuses to start while it lives."""
    start(database, stack)
    assert database.process is not None
    [child, *_] = psutil.Process(database.process.pid).children()
    child.suspend()
    database.process.kill()
    database.process.wait()
    start(database, stack)
    assert works(database)
    until(lambda: is_gone(child.pid))


@pytest.mark.parametrize("kind", ["postgres", "valkey"])
def test_a_server_that_nobody_recorded_is_ended_first(tmp_path: Path, stack: ExitStack, kind: str) -> None:
    """Two on the same files would destroy them."""
    [port, other_port] = free_ports(2)
    directory = tmp_path / kind
    server: PostgresServer | ValkeyServer
    if kind == "postgres":
        server = PostgresServer(directory, port=other_port, password=PASSWORD)
        parent = Parent("postgres", "PostgresServer", directory, port)
    else:
        server = ValkeyServer(directory, port=other_port, password=PASSWORD)
        parent = Parent("valkey", "ValkeyServer", directory, port)
        with redis.Redis(port=port, password=PASSWORD) as client:
            client.set("kept", "1")
    stack.callback(parent.close)
    start(server, stack)
    assert is_gone(parent.pid)
    if isinstance(server, ValkeyServer):
        with redis.Redis(port=other_port, password=PASSWORD) as client:
            assert client.get("kept") == b"1"
    else:
        assert works(server)


def test_only_the_program_in_its_own_directory_is_found(tmp_path: Path, stack: ExitStack) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    processes: list[subprocess.Popen[bytes]] = []
    for directory in (here, there):
        directory.mkdir()
        process = subprocess.Popen(["sleep", "600"], cwd=directory)
        processes.append(process)
        stack.callback(process.wait)
        stack.callback(process.kill)
    program = Path(psutil.Process(processes[0].pid).exe())
    assert processes_of(program, here) == [processes[0].pid]
    assert processes_of(Path("/usr/bin/other"), here) == []
    # Another directory with the path that the process shows, as in another mount namespace.
    image = tmp_path / "image"
    image.mkdir()
    inside = f"mount --bind {image} {tmp_path} && mkdir {here} && cd {here} && echo started && exec sleep 600"
    if os.geteuid() == 0:
        command = ["unshare", "--mount", "sh", "-c", inside]
        contained = subprocess.Popen(command, stdout=subprocess.PIPE)
        stack.enter_context(contained)
        stack.callback(contained.kill)
        assert contained.stdout is not None
        assert contained.stdout.readline() == b"started\n"
        assert Path(f"/proc/{contained.pid}/cwd").readlink() == here
        assert processes_of(program, here) == [processes[0].pid]
    processes[0].kill()
    until(lambda: is_zombie(processes[0].pid))
    assert processes_of(program, here) == []
    assert is_gone(processes[0].pid)
    assert not is_gone(processes[1].pid)


def test_a_home_is_taken_as_soon_as_its_dying_holder_lets_go(tmp_path: Path, stack: ExitStack) -> None:
    code = """
import sys
from pathlib import Path
from shared.stack.home import Home
home = Home(Path(sys.argv[1]))
home.lock()
print("held", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stack.callback(holder.communicate)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    holder.kill()
    # A zombie, and collected only at the end.
    home = Home(tmp_path)
    home.lock()
    home.unlock()
