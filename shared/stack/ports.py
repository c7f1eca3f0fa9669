"""Which TCP ports on loopback are free."""

from __future__ import annotations

import errno
import socket

from shared.stack.errors import StackError

_HOST = "127.0.0.1"


def is_free(port: int, host: str = _HOST) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise StackError(f"Can't listen on {host}:{port}: {error.strerror}.") from error
        return True


def claim(port: int) -> socket.socket | None:
    """Keeps other `cloudify up`s from the port while the socket is open; None when one of them has it.

    Caddy shares a port with whoever allows that too, so two platforms that start at once could both get it. The name
    is an abstract one, which lives in the same network namespace as the port and goes with this process.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0cloudify-port-{port}")
    except OSError:
        held.close()
        return None
    return held


def free_ports(count: int) -> list[int]:
    """`count` different ports that nobody listens on now."""
    probes: list[socket.socket] = []
    try:
        for _ in range(count):
            probe = socket.socket()
            probes.append(probe)
            probe.bind((_HOST, 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
