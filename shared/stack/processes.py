"""Starts and ends operating-system processes of the stack."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from shared.private_files import let_others_pass
from shared.stack.errors import StackError

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWUSER = 0x10000000

# Loaded before any fork: nothing may take the loader's lock between fork and exec.
_LIBC: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class Process(Protocol):
    """The part of subprocess.Popen that the stack uses."""

    pid: int
    # None while it runs; the negative number of the signal that ended it.
    returncode: int | None

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        ...

    def send_signal(self, sig: int, /) -> None: ...

    def kill(self) -> None: ...


def die_with_parent(parent: int) -> None:
    """Call it between fork and exec: the kernel then ends this process when the thread that started it ends.

    Call it only for children of a main thread, and after any change of identity, which would reset it.
    """
    if _LIBC is None:
        return
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def adopting_orphans() -> Generator[None]:
    """Within it, this process becomes the parent of its descendants whose own parent ends. Raises OSError."""
    _control_process(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        _control_process(_PR_SET_CHILD_SUBREAPER, 0)


def name_process(name: str) -> None:
    """Sets the name that `ps` and `top` show, of which the kernel keeps 15 bytes."""
    _control_process(_PR_SET_NAME, name.encode())


def _control_process(operation: int, argument: int | bytes) -> None:
    if _LIBC is None:
        raise OSError(errno.ENOSYS, "only Linux can do this")
    if _LIBC.prctl(operation, argument, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _enter_user_namespace(user: int) -> bool:
    """Call it between fork and exec to become `user`, which then owns root's files. Returns False if not allowed."""
    if _LIBC is None or _LIBC.unshare(_CLONE_NEWUSER) != 0:
        return False
    for name, content in (("setgroups", "deny"), ("uid_map", f"{user} 0 1"), ("gid_map", f"{user} 0 1")):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(descriptor, content.encode())
        os.close(descriptor)
    return True


def _unprivileged_account() -> pwd.struct_passwd:
    """An account of this machine other than root. initdb requires it to have a name."""
    return max(pwd.getpwall(), key=lambda account: (account.pw_name == "nobody", account.pw_uid != 0))


def _user_namespaces_work(user: int) -> bool:
    """Whether a process may enter a user namespace here, tested in a child."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if _enter_user_namespace(user) else 1)
        except BaseException:  # noqa: BLE001 - a forked child must never return into the caller's code
            os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def unprivileged(owned: Path) -> Callable[[], None] | None:
    """A function to run between fork and exec for a program that refuses root; None if this process isn't root.

    It enters a user namespace, in which the data keeps its owner, in any folder. If those are forbidden, it becomes
    `nobody`, to whom `owned` is given with access through its parent. Raises StackError if `nobody` can't reach it.
    """
    if os.geteuid() != 0:
        return None
    account = _unprivileged_account()
    if _user_namespaces_work(account.pw_uid):

        def enter() -> None:
            _enter_user_namespace(account.pw_uid)

        return enter
    let_others_pass(owned.parent)
    for folder in owned.resolve().parents:
        if not folder.stat().st_mode & 0o001:
            raise StackError(
                f"PostgreSQL refuses to run as root, user namespaces are off, and `nobody` can't reach {folder}. "
                f"Run this as an ordinary user, or put CLOUDIFY_HOME in a folder that all users can enter."
            )
    for path in (owned, *owned.rglob("*")):
        os.lchown(path, account.pw_uid, account.pw_gid)

    def drop() -> None:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)

    return drop


def spawn(
    arguments: Sequence[str | Path],
    *,
    log_path: Path,
    directory: Path,
    environment: Mapping[str, str] | None = None,
    become: Callable[[], None] | None = None,
    standard_input: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Starts a program in its own session and appends its output to `log_path`. Call it from the main thread.

    The program ends with this process. `environment` is added to this process's environment.
    """
    parent = os.getpid()

    def prepare() -> None:
        if become is not None:
            become()
        die_with_parent(parent)

    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("ab") as log:
        return subprocess.Popen(
            [os.fspath(argument) for argument in arguments],
            cwd=directory,
            env={**os.environ, **(environment or {})},
            stdin=standard_input,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 - this process starts children from its only thread
        )


def end(process: Process, *, how: signal.Signals = signal.SIGTERM, seconds: float = 5.0) -> None:
    """Asks the process to end, and kills it after `seconds`. May be called again."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def last_lines(path: Path, count: int = 12) -> str:
    """The end of a log, for the message of a failed start."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 8192))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-count:])
    except OSError:
        return "(no output)"
