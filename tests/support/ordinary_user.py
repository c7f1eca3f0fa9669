"""Runs a test's body as a user whom permissions bind: root passes them all, and the tests' user may be root."""

from __future__ import annotations

import functools
import os
import traceback
from collections.abc import Callable
from pathlib import Path

_NOBODY = 65534


def as_ordinary_user(test: Callable[[Path], None]) -> Callable[[Path], None]:
    """For tests of one directory. Under root, a child of another user runs the body there; its failure is shown."""

    @functools.wraps(test)
    def run(tmp_path: Path) -> None:
        if os.geteuid() != 0:
            test(tmp_path)
            return
        os.chown(tmp_path, _NOBODY, _NOBODY)
        place, told = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), os.memfd_create("traceback")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                # The directories on the way are the tests' user's own.
                os.fchdir(place)
                os.setgroups([])
                os.setresgid(_NOBODY, _NOBODY, _NOBODY)
                os.setresuid(_NOBODY, _NOBODY, _NOBODY)
                test(Path())
                status = 0
            except BaseException:  # noqa: BLE001 - told by the parent
                os.write(told, traceback.format_exc().encode())
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        text = os.pread(told, 1 << 20, 0).decode()
        os.close(place)
        os.close(told)
        assert status == 0, text

    return run
