"""Device files of our own for sandboxes that root launches.

Such a build has root's uid towards the kernel, so that the host's /dev/null would be its own file: it could take the
permissions of it away from everybody. These belong to an account that no build runs as.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import stat
from pathlib import Path

_log = logging.getLogger(__name__)

# Name → major and minor number (kernel: admin-guide/devices.txt); the devices of `bwrap --dev`.
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_DIRECTORY = ".devices"
_NOBODY = 65534
_FOR_EVERYBODY = 0o666


def make_device_nodes(runtime_directory: Path) -> dict[str, Path]:
    """Name in /dev → host path; empty where the host's own do, as an ordinary user's builds don't own them.

    Also empty, with a warning, on a file system without devices. Workers that share the directory share the nodes.
    """
    if os.geteuid() != 0:
        return {}
    directory = runtime_directory / _DIRECTORY
    directory.mkdir(mode=0o700, exist_ok=True)
    try:
        for name, (major, minor) in _DEVICES.items():
            _make(directory / name, os.makedev(major, minor))
        with (directory / "null").open("wb") as null:
            null.write(b"is it a device")
    except OSError as error:
        _log.warning(
            "Builds see the host's own /dev/null, whose permissions they can change: %s. Put CLOUDIFY_HOME on a file"
            " system that isn't mounted `nodev`, or run the worker as an ordinary user.",
            error,
        )
        return {}
    return {name: directory / name for name in _DEVICES}


def _make(path: Path, device: int) -> None:
    """Complete or not at all: another worker may look for it meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        status = path.lstat()
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == device and status.st_uid == _NOBODY:
            return
    fresh = path.with_name(f"{path.name}-{secrets.token_hex(4)}")
    os.mknod(fresh, stat.S_IFCHR | 0o600, device)
    try:
        fresh.chmod(_FOR_EVERYBODY)
        os.chown(fresh, _NOBODY, _NOBODY)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
