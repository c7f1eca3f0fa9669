"""TCP ports on loopback for the servers of tests. No other process takes them before the server starts.

The kernel assigns ports above 32767 to clients and to servers that ask for any port, so one of those that was free a
moment ago may be taken by then, as may the port of a server that restarts. These are below, and each process that runs
tests claims a block of them.
"""

from __future__ import annotations

import functools
import itertools
import secrets
import socket
from collections.abc import Iterator

from shared.stack.ports import is_free

_FIRST, _BLOCKS, _BLOCK_SIZE = 20_000, 20, 600


def free_ports(count: int) -> list[int]:
    """`count` different ports that nobody listens on now, and that this process gave to nobody in its last hundreds."""
    free = (port for port in _block().ports if is_free(port))
    return list(itertools.islice(free, count))


class _Block:
    """`ports` is an endless cycle."""

    def __init__(self) -> None:
        # A socket name in the network namespace of the ports; it is released when this process ends.
        self._claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        first = _FIRST + _BLOCK_SIZE * self._number()
        self.ports: Iterator[int] = itertools.cycle(range(first, first + _BLOCK_SIZE))

    def _number(self) -> int:
        start = secrets.randbelow(_BLOCKS)
        for number in (*range(start, _BLOCKS), *range(start)):
            try:
                self._claim.bind(f"\0cloudify-tests-ports-{number}")
            except OSError:
                continue
            return number
        # All blocks are taken, or the system has no abstract socket names: use ports that are free now.
        return start


@functools.cache
def _block() -> _Block:
    return _Block()
