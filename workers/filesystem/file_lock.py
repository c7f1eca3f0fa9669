"""Advisory locks between the worker processes of one host, on files that may be deleted meanwhile."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path, *, is_shared: bool = False, is_blocking: bool = True) -> Generator[int | None]:
    """Holds flock(2) on `path`, which is created if missing, and yields its descriptor.

    Yields None if `is_blocking` is false and another holder has the lock. The holder of an exclusive lock may
    delete the file: waiting callers notice and lock the new one. The kernel releases the lock when the process ends,
    however it ends. Two calls exclude each other in one process as well as in two.
    """
    operation = (fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX) | (0 if is_blocking else fcntl.LOCK_NB)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, operation)
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    raise
                yield None
                return
            if _is_same_file(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        now = path.lstat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (now.st_dev, now.st_ino)
