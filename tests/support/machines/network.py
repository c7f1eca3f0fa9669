"""Machines of a test: network namespaces on a bridge, which has no way out. Linux and root only.

Nothing has a name outside: each namespace ends with the processes in it, and those with this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

_CLONE_NEWNET = 0x40000000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_PREFIX = 24
_BRIDGE = "bridge"


def why_not() -> str | None:
    """Why machines can't be made here; None if they can."""
    if sys.platform != "linux":
        return "needs Linux"
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    missing = [name for name in ("ip", "bridge", "unshare", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"needs the programs {', '.join(missing)} (iproute2, util-linux)"
    tried = run(
        "unshare", "--net", "--pid", "--mount-proc", "--fork", "ip", "link", "add", "name", "b", "type", "bridge"
    )
    return None if tried is None else f"needs network namespaces: {tried}"


def run(*command: str) -> str | None:
    """None, or what the command said when it failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}"


def must(*command: str) -> None:
    problem = run(*command)
    assert problem is None, f"{' '.join(command)}: {problem}"


def die_with_parent() -> None:
    """Between fork and exec: the kernel kills this process when the thread that started it ends."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def enter_network(path: str) -> None:
    """Moves the calling thread, and threads and processes that it starts from now on, into a network namespace."""
    assert _LIBC is not None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if _LIBC.setns(descriptor, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


class Network:
    """A bridge in a namespace of its own, in which the test's clients are at `address`. Use it from the main thread."""

    def __init__(self, subnet: str = "10.77.0") -> None:
        self._subnet = subnet
        self.address = self.address_of(1)
        self._silent: set[str] = set()

    def address_of(self, number: int) -> str:
        return f"{self._subnet}.{number}"

    @contextmanager
    def entered(self) -> Generator[None]:
        """This thread is in the clients' namespace during the block; everything ends with it."""
        outside = f"/proc/{os.getpid()}/task/{os.getpid()}/ns/net"
        before = os.open(outside, os.O_RDONLY)
        holder = subprocess.Popen(
            ["unshare", "--net", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - from the main thread
        )
        try:
            # An echo: it is in its namespace by then.
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdin.write(b"\n")
            holder.stdin.flush()
            holder.stdout.readline()
            enter_network(f"/proc/{holder.pid}/ns/net")
            must("ip", "link", "set", "lo", "up")
            must("ip", "link", "add", _BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0")
            must("ip", "address", "add", f"{self.address}/{_PREFIX}", "dev", _BRIDGE)
            must("ip", "link", "set", _BRIDGE, "up")
            yield
        finally:
            enter_network(f"/proc/self/fd/{before}")
            os.close(before)
            holder.kill()
            holder.wait()
            for pipe in (holder.stdin, holder.stdout):
                with contextlib.suppress(OSError):
                    assert pipe is not None
                    pipe.close()

    # Cables; called inside `entered`

    def plug(self, name: str, pid: int, address: str) -> None:
        """Connects the namespace of a process with the bridge."""
        run("ip", "link", "delete", name)  # of a former machine: the kernel takes it away some time after its end
        must("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        must("ip", "link", "set", name, "master", _BRIDGE, "up")
        inside = ("nsenter", "--net", f"--target={pid}", "ip")
        must(*inside, "link", "set", "lo", "up")
        # The same at each start, as a real card's: others keep it in their tables.
        hardware = "02:00:" + ":".join(f"{int(part):02x}" for part in address.split("."))
        must(*inside, "link", "set", "eth0", "address", hardware)
        must(*inside, "address", "add", f"{address}/{_PREFIX}", "dev", "eth0")
        must(*inside, "link", "set", "eth0", "up")

    def cut(self, name: str, *, is_silent: bool) -> None:
        """Silent: the machine's card still has its carrier, and packets disappear."""
        if is_silent:
            self._silent.add(name)
            must("bridge", "link", "set", "dev", name, "state", "0")
        else:
            must("ip", "link", "set", name, "down")

    def heal(self, name: str) -> None:
        if name in self._silent:
            self._silent.remove(name)
            must("bridge", "link", "set", "dev", name, "state", "3")
        else:
            must("ip", "link", "set", name, "up")
