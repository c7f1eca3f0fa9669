"""The first program of a build's container and the init of its processes: `entry.py FILTER`.

It reads one line of JSON from its standard input, {"command", "directory", "environment"}, because the container's
configuration is kept on the daemon's disk and shown by `docker inspect`. The command gets a system-call filter on top
of Docker's. SIGTERM goes to everything inside; when the worker is gone, the other end of the
standard input is, and everything inside is killed. Nothing inside can kill it: an init gets no signal that it has no
handler for (pid_namespaces(7)), the filter keeps its limits, and its files in /proc are root's. It never ends with 137
by itself: a container that does was killed from outside. Standard library only: the image's Python runs this file. The
first program of a build's pod (`kubernetes/pod/command.py`) uses parts of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# More than the daemon and the worker need to notice that the kernel ended something for want of memory.
_MEMORY_SECONDS = 5.0
_COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))
_SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER_MODE = 4, 38, 22, 2  # prctl(2)
_CANNOT_RUN = 126
_KILLED = 137
# In place of 137 for a command that was killed. No other ending is likely to have it: it stands for a real-time signal.
COMMAND_KILLED = 165


def main() -> None:
    shut()
    program = Path(sys.argv[1]).read_bytes()
    request = json.loads(_read_line())
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, lambda _number, _frame: signal_all(signal.SIGTERM))
    child = os.fork()
    if child == 0:
        try:
            become(request, program)
        except BaseException as error:  # noqa: BLE001 - nothing of this process may run on as a second parent
            os.write(2, f"The command can't be started: {error}\n".encode(errors="replace"))
        os._exit(_CANNOT_RUN)
    code = os.waitstatus_to_exitcode(_wait(child, wake_read))
    deadline = time.monotonic() + _MEMORY_SECONDS
    while is_out_of_memory() and time.monotonic() < deadline:
        time.sleep(0.1)  # the worker ends the container meanwhile
    code = 128 - code if code < 0 else code
    os._exit(COMMAND_KILLED if code == _KILLED else code)


def shut() -> None:
    """The build has this process's user: it could write to its memory and hold its standard input open by /proc, and
    choose it for the memory killer. Holds up to the command's exec(2). Python's handler for SIGINT would end it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _control_process(_SET_DUMPABLE, 0)


def _control_process(*arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(*arguments, *[0] * (5 - len(arguments))):
        raise OSError(ctypes.get_errno(), f"prctl({arguments[0]}) is refused")


def _read_line() -> bytes:
    """Byte by byte up to the end of the line: nothing but the end of the input may follow."""
    received = b""
    while not received.endswith(b"\n"):
        data = os.read(0, 65536)
        if not data:
            os._exit(_CANNOT_RUN)  # the worker died before it sent the request
        received += data
    return received


def _wait(child: int, wake: int) -> int:
    poller = select.poll()
    poller.register(0, 0)  # only the hang-up
    poller.register(wake, select.POLLIN)
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == 0:
                signal_all(signal.SIGKILL)
                os._exit(128 + signal.SIGKILL)
            os.read(wake, 4096)
        status = reap(child)
        if status is not None:
            return status


def reap(child: int) -> int | None:
    """Collects ended processes, orphans too; the status of the command if it is one of them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in (0, child):
            return status if pid else None


def signal_all(number: int) -> None:
    """To every process of the container but this one."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, number)


def become(request: Mapping[str, Any], program: bytes) -> None:
    """Becomes the command; `request`: see the head of this module. Raises OSError."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.closerange(3, null + 1)
    os.chdir(str(request["directory"]))
    command = [str(word) for word in request["command"]]
    environment = {str(name): str(value) for name, value in request["environment"].items()}
    _install(program)
    os.execve(command[0], command, environment)  # noqa: S606 - the project's command, without a shell


def _install(program: bytes) -> None:
    """The filter stays for everything that the command starts (seccomp(2))."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    passed = Program(len(program) // 8, program)
    _control_process(_SET_NO_NEW_PRIVILEGES, 1)
    _control_process(_SET_SECCOMP, _FILTER_MODE, ctypes.byref(passed))


def is_out_of_memory() -> bool:
    """Whether the kernel ended a process of this container for want of memory; unknown counts as no."""
    for path in _COUNTERS:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        return any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in lines)
    return False


if __name__ == "__main__":
    main()
