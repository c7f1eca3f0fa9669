"""Which TCP ports on loopback are free."""

from __future__ import annotations

import errno
import socket

from shared.stack.errors import StackError

_HOST = "127.0.0.1"


def is_free(port: int, host: str = _HOST) -> bool:
    """Whether a server could listen on the port now. Raises StackError if the address can't be used at all."""
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
    """Keeps other runs of `cloudify up` from the port while the socket is open. Returns None if one of them has it.

    Caddy shares a port with any program that allows it, so two platforms that start simultaneously could both get it.
    The socket's name is abstract: it belongs to the same network namespace as the port, and ends with this process.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        held.bind(f"\0cloudify-port-{port}")
    except OSError:
        held.close()
        return None
    return held


def free_ports(count: int) -> list[int]:
    """`count` different ports that are free now."""
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
