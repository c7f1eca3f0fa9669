"""How many files this process may have open."""

from __future__ import annotations

import resource

# More slows down programs that close every descriptor there might be.
_OPEN_FILES = 65_536


def raise_file_limit() -> int:
    """Goes as far as the system lets this process, up to 65,536. Returns how many it may open from now on.

    The limit that programs begin with is mostly 1024. A build may hold 512 open files by its way out to the network, so
    that two would stop all that run beside them; the API holds one for each connection.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(_OPEN_FILES, most)
    if now == resource.RLIM_INFINITY:
        return _OPEN_FILES
    if now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return max(now, wanted)
