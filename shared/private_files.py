"""Keeps the platform's files for its own account: no other account of the machine reaches builds, keys or logs."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_UMASK = 0o077
# What is shown to builds, and what they write, has the modes that people expect: a checkout's are part of its content.
PUBLIC_UMASK = 0o022
_OTHERS_PASS = 0o001


def keep_files_private(home: Path) -> None:
    """Makes this process and its children write for their own account only, and corrects what `home` has already.

    `home` is CLOUDIFY_HOME, which need not exist. Directories become 0700 and files lose what others may do; those of
    another account are left alone. A home that `let_others_pass` opened stays passable. Raises OSError.
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
                # A program of the owner's that lies here stays one.
                _restrict(entry, stat.S_IMODE(mode) & stat.S_IRWXU)


def close_home(home: Path) -> None:
    """Ends what `let_others_pass` allowed."""
    _restrict(home, stat.S_IRWXU)


def let_others_pass(home: Path) -> None:
    """Lets other accounts reach a directory of their own in `home`; they still can't list it or enter another one."""
    _restrict(home, stat.S_IRWXU | _OTHERS_PASS)


def _restrict(path: Path, mode: int) -> None:
    status = path.stat()
    # Also a setgid bit, which everything made in the directory would inherit.
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) != mode:
        path.chmod(mode)
