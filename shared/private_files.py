"""Restricts the platform's files to its own account: no other account can read builds, keys or logs."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_UMASK = 0o077
# Inputs and outputs of builds keep their modes: those of a checkout are part of its content.
PUBLIC_UMASK = 0o022
_OTHERS_PASS = 0o001


def keep_files_private(home: Path) -> None:
    """Sets the umask of this process and its children to their own account, and corrects existing files in `home`.

    `home` is CLOUDIFY_HOME, which need not exist. Directories get mode 0700 and files lose the rights of others; files
    of another account are not changed. A home that `let_others_pass` opened remains passable. Raises OSError.
    """
    os.umask(_UMASK)
    if not os.access(home, os.R_OK | os.X_OK):
        return
    passable = _OTHERS_PASS if os.geteuid() == 0 else 0
    _restrict(home, stat.S_IRWXU | (stat.S_IMODE(home.stat().st_mode) & passable))
    for entry in home.iterdir():
        # Another process of the platform may replace a file meanwhile.
        with contextlib.suppress(FileNotFoundError):
            mode = entry.stat().st_mode
            if stat.S_ISDIR(mode):
                _restrict(entry, stat.S_IRWXU)
            elif stat.S_ISREG(mode):
                # The owner's executables remain executable.
                _restrict(entry, stat.S_IMODE(mode) & stat.S_IRWXU)


def close_home(home: Path) -> None:
    """Reverts `let_others_pass`."""
    _restrict(home, stat.S_IRWXU)


def let_others_pass(home: Path) -> None:
    """Lets other accounts reach their own directory in `home`; they can't list `home` or enter other directories."""
    _restrict(home, stat.S_IRWXU | _OTHERS_PASS)


def _restrict(path: Path, mode: int) -> None:
    status = path.stat()
    # Also removes a setgid bit, which everything created in the directory would inherit.
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
        path.chmod(mode)
