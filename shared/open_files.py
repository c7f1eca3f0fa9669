"""The limit of open files of this process."""

from __future__ import annotations

import resource

# A higher limit slows down programs that close all possible descriptors.
_OPEN_FILES = 65_536


def raise_file_limit() -> int:
    """Raises the limit as far as the system allows, up to 65,536. Returns the new limit.

    The usual default is 1024. The network connections of a build may take 512 files, so two builds would block all
    others; the API takes one for each connection.
    """
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(_OPEN_FILES, most)
    if now == resource.RLIM_INFINITY:
        return _OPEN_FILES
    if now < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    return max(now, wanted)
