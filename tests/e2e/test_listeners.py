"""Every port and Unix socket of a running platform refuses who has no key, and names that aren't its own."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from shared.stack.object_store_tls import write_security
from tests.support.running_platform import TIMEOUT_SECONDS, Platform

pytestmark = pytest.mark.e2e

FOREIGN = "attacker.example"
# Paths that tell or change something on one of the servers: of SeaweedFS's master, volume server, filer and S3 gateway,
# Caddy's administration, Go's profiler, the API, and what a server might have at its root.
PATHS = (
    "/", "/dir/status", "/dir/assign", "/dir/lookup?volumeId=1", "/cluster/status", "/vol/grow?count=1", "/submit",
    "/buckets/", "/buckets/cloudify/", "/etc/", "/topics/.system/", "/1,0123456789", "/stats/counter", "/cloudify",
    "/cloudify?list-type=2", "/config/", "/stop", "/id/x", "/metrics", "/debug/pprof/", "/debug/vars", "/api/projects",
    "/api/admin/queue", "/ui/index.html",
)  # fmt: skip
# Of other protocols: Valkey's, PostgreSQL's (a start-up without a password), and gRPC without TLS.
GREETINGS = (
    b"PING\r\nINFO\r\nCONFIG GET requirepass\r\n",
    b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n",
    bytes.fromhex("0000002800030000") + b"user\0cloudify\0database\0cloudify\0\0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"),
)
# Liveness for load balancers, which can't be turned off: an empty answer.
S3_LIVENESS = ("/healthz", "/status")
# Prometheus reads the metrics without a key: numbers of the platform, of no tenant.
WITHOUT_KEY = {"reconciler"}
# They say nothing to HTTP, or hang up.
WITHOUT_HTTP = {"postgres", "valkey"}


@dataclass(frozen=True)
class Listener:
    role: str
    host: str
    port: int


def processes(platform: Platform) -> dict[int, str]:
    """Pid → role of everything that the platform started, at any depth; its own process is "up"."""
    assert platform.process is not None
    named = {record["pid"]: role for role, record in platform.records().items()}
    roles = {platform.process.pid: "up"}
    for child in psutil.Process(platform.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # one that ends meanwhile
            line = [child, *child.parents()]
            roles[child.pid] = next((named[process.pid] for process in line if process.pid in named), "up")
    return roles


def listeners(platform: Platform) -> list[Listener]:
    found: set[Listener] = set()
    for pid, role in processes(platform).items():
        for connection in connections(pid):
            if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM:
                assert connection.type == socket.SOCK_STREAM, (role, connection)
                found.add(Listener(role, connection.laddr.ip, connection.laddr.port))
    return sorted(found, key=lambda listener: listener.port)


def connections(pid: int) -> list[Any]:
    try:
        return list(psutil.Process(pid).net_connections("inet"))
    except psutil.NoSuchProcess:
        return []


def listening_unix_sockets(platform: Platform) -> Iterator[tuple[str, str, Path]]:
    """Role, name and path of each; the name of an abstract one begins with @."""
    accepting = 0x10000  # __SO_ACCEPTCON
    for pid, role in processes(platform).items():
        folder = Path("/proc", str(pid))
        try:
            own = {link.readlink().name for link in (folder / "fd").iterdir()}
            lines = (folder / "net" / "unix").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it, or a file of it, was closed meanwhile
        for line in lines[1:]:
            fields = line.split(maxsplit=7)
            if int(fields[3], 16) & accepting and f"socket:[{fields[6]}]" in own:
                name = fields[7] if len(fields) > 7 else "@"
                yield role, name, (folder / "cwd").resolve() / name


def exchange(listener: Listener, request: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """What is answered, up to 4 KiB; nothing when the connection ends or stays silent."""
    answer = b""
    try:
        with socket.create_connection((listener.host, listener.port), timeout=TIMEOUT_SECONDS) as plain:
            # A server that waits for more says nothing, which is no answer.
            plain.settimeout(1)
            connection = plain if context is None else context.wrap_socket(plain)
            with connection:
                connection.sendall(request)
                while len(answer) < 4096 and (data := connection.recv(4096)):
                    answer += data
    except OSError:
        pass
    return answer


def get(path: str, host: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def paths_of(listener: Listener) -> tuple[str, ...]:
    return ("/",) if listener.role in WITHOUT_HTTP else PATHS


def is_refusal(answer: bytes) -> bool:
    """Silence, a TLS alert, HTTP's 4xx, Valkey's or PostgreSQL's word that a password is wanted."""
    if re.match(rb"HTTP/1\.[01] 4\d\d ", answer):
        return True
    if answer.startswith(b"R"):
        # Asks for SCRAM (message R, code 10), and nothing came before it.
        return answer[5:9] == (10).to_bytes(4, "big")
    lines = answer.splitlines()
    if answer.startswith(b"-"):
        return all(line.startswith((b"-NOAUTH", b"-ERR", b"-DENIED")) for line in lines)
    return answer == b"" or answer.startswith((b"\x15\x03", b"E"))


def test_every_port_refuses_callers_without_a_key(platform: Platform) -> None:
    found = listeners(platform)
    by_role = {listener.role for listener in found}
    assert by_role == {"api", "postgres", "valkey", "object-store", "caddy", "router", "reconciler"}
    roles = [listener.role for listener in found]
    # A port of which nobody knows would be one too many.
    assert {role: roles.count(role) for role in by_role} == dict.fromkeys(by_role, 1) | {"object-store": 8}
    assert {listener.host for listener in found} == {"127.0.0.1"}
    for listener in found:
        if listener.role in WITHOUT_KEY:
            continue
        for request in (*GREETINGS, *(get(path, f"127.0.0.1:{listener.port}") for path in paths_of(listener))):
            answer = exchange(listener, request)
            assert is_refusal(answer), (listener, request, answer)


def test_every_port_refuses_names_that_are_not_its_own(platform: Platform) -> None:
    """As a web page sends them by rebinding its own name to this machine."""
    for listener in listeners(platform):
        for path in (*paths_of(listener), *(() if listener.role == "object-store" else S3_LIVENESS)):
            answer = exchange(listener, get(path, f"{FOREIGN}:{listener.port}"))
            assert is_refusal(answer), (listener, path, answer)


def test_tls_ports_let_in_only_holders_of_the_key(platform: Platform, tmp_path: Path) -> None:
    nobody = ssl.create_default_context()
    stranger = write_security(tmp_path)
    holder = ssl.create_default_context(cafile=str(platform.home / "object-store" / "tls.crt"))
    holder.load_cert_chain(platform.home / "object-store" / "tls.crt", platform.home / "object-store" / "tls.key")
    for context in (nobody, stranger, holder):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    is_open = 0
    for listener in listeners(platform):
        if listener.role != "object-store":
            continue
        for context in (nobody, stranger):
            for path in ("/", "/dir/status", "/buckets/"):
                answer = exchange(listener, get(path, "127.0.0.1"), context)
                assert answer == b"", (listener, path, answer)
        is_open += exchange(listener, get("/", "127.0.0.1"), holder).startswith(b"HTTP/")
    # Master, volume server and filer: what is refused above is there.
    assert is_open >= 3


def test_stores_want_their_passwords(platform: Platform) -> None:
    [postgres] = [listener for listener in listeners(platform) if listener.role == "postgres"]
    for user, password in (("cloudify", ""), ("cloudify", "cloudify"), ("postgres", ""), ("root", "")):
        with pytest.raises(psycopg.OperationalError, match=r"password|authentication"):
            psycopg.connect(
                host="127.0.0.1", port=postgres.port, user=user, password=password, dbname="postgres"
            ).close()


def test_unix_sockets_are_the_accounts_own(platform: Platform) -> None:
    found = list(listening_unix_sockets(platform))
    assert {role for role, _, _ in found} <= {"object-store", "worker-install"}
    assert {"filer.sock", "s3.sock"} <= {name for _, name, _ in found}
    for role, name, path in found:
        assert not name.startswith("@"), (role, name)
        status = path.lstat()
        assert stat.S_ISSOCK(status.st_mode)
        assert not status.st_mode & 0o077, (role, path, oct(status.st_mode))


def test_the_liveness_of_the_object_store_says_nothing(platform: Platform) -> None:
    for listener in listeners(platform):
        if listener.role == "object-store":
            for path in S3_LIVENESS:
                _, _, body = exchange(listener, get(path, f"{FOREIGN}:{listener.port}")).partition(b"\r\n\r\n")
                assert body in (b"", b"Client sent an HTTP request to an HTTPS server.\n")


def test_the_home_is_the_accounts_own(platform: Platform) -> None:
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in (platform.home, *platform.home.iterdir())}
    assert {path.name: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
    own = {record["pid"] for record in platform.records().values()}
    for pid, role in processes(platform).items():
        # Not a build's processes, nor git.
        if pid in own:
            umask = re.search(r"^Umask:\s+(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            assert umask is not None
            assert umask[1] == "0077", role
