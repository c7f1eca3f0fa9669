"""TCP ports on loopback for the servers of tests, which nobody else is given between the choice and the server's start.

The kernel gives those above 32767 to whoever asks for any port, and to clients; a port that was free a moment ago, or
that a server has left to be started again, may be theirs by then. So these are below, and each process that runs tests
takes a block of them for itself.
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
    """`ports` goes round for ever."""

    def __init__(self) -> None:
        # A name in the same network namespace as the ports, which goes with this process.
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
        # All are taken, or names like this are none of this system's: what is free now has to do.
        return start


@functools.cache
def _block() -> _Block:
    return _Block()
