"""The proxy of a sandbox by itself, in a process of its own: its limits are the process's."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from shared.errors import PlatformError
from workers.egress.policy import EgressPolicy
from workers.egress.proxy import EgressProxy

pytestmark = pytest.mark.integration

# While the process has no descriptor left, a connection waits; afterwards it is served like any other.
_PROGRAM = """
import resource, socket, sys, threading
from pathlib import Path
from workers.egress.policy import EgressPolicy
from workers.egress.proxy import EgressProxy

path = Path(sys.argv[1])
proxy = EgressProxy(path, EgressPolicy([], []))
listener = socket.create_server(("127.0.0.1", 0))
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as handover:
    handover.connect(str(path))
    socket.send_fds(handover, [b"L"], [listener.fileno()])
    assert handover.recv(1)
address = listener.getsockname()
listener.close()
first, second = socket.socket(), socket.socket()

now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, most))
# The first is served if the kernel had chosen its descriptor already, when the proxy began to wait for it.
first.connect(address)
second.connect(address)
second.settimeout(0.3)
try:
    assert second.recv(1) == b"", "nothing was asked"
    raise SystemExit("the proxy has gone")
except TimeoutError:
    pass
resource.setrlimit(resource.RLIMIT_NOFILE, (now, most))

for connection in (first, second):
    connection.settimeout(60)
    connection.sendall(b"GET http://127.0.0.1/ HTTP/1.1\\r\\n\\r\\n")
    assert connection.recv(100).startswith(b"HTTP/1.1 403 "), connection
assert proxy.traffic().blocked_hosts == ("127.0.0.1",)
proxy.close()
assert not any(thread.name == "egress-proxy" for thread in threading.enumerate())
"""


def test_a_shortage_of_descriptors_passes(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "s")], capture_output=True, text=True, timeout=200, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_handover_that_brings_nothing_is_the_platforms_failure(tmp_path: Path) -> None:
    with closing(EgressProxy(tmp_path / "s", EgressPolicy([], []))) as proxy, socket.socket(socket.AF_UNIX) as handover:
        handover.settimeout(60)
        handover.connect(str(tmp_path / "s"))
        # What is left of a descriptor that the receiver has no room for.
        handover.sendall(b"L")
        assert handover.recv(1) == b""
        with pytest.raises(PlatformError, match="handed its listener"):
            proxy.check_served()


def test_a_handover_that_went_well_leaves_the_failure_to_the_command(tmp_path: Path) -> None:
    with (
        closing(EgressProxy(tmp_path / "s", EgressPolicy([], []))) as proxy,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as handover,
    ):
        handover.settimeout(60)
        handover.connect(str(tmp_path / "s"))
        socket.send_fds(handover, [b"L"], [listener.fileno()])
        assert handover.recv(1) == b"L"
        proxy.check_served()
