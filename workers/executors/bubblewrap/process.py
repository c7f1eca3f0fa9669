"""One running bubblewrap: started, released into its limits, stopped, and seen gone."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Sequence

import psutil

from shared.errors import PlatformError
from workers.executors.base import Limits, OnOutput
from workers.executors.bubblewrap.ending_witness import EndingWitness
from workers.executors.bubblewrap.spawner import Spawner
from workers.executors.cgroups import ControlGroup
from workers.executors.layout import FILE_SIZE_MARGIN
from workers.executors.output_pump import OutputPump
from workers.executors.process_tree import ProcessIdentity, descendants, has_child

_START_SECONDS = 30.0
_BIND_POLL_SECONDS = 0.001
_GONE_SECONDS = 30.0
_OPEN_FILES = 16_384


def waiting_command(command: Sequence[str]) -> list[str]:
    """A shell that starts `command` at the worker's word and ends when the worker is gone instead.

    For a shell a missing program is exit code 127, for bubblewrap it is a sandbox that can't be made.
    """
    return ["/bin/sh", "-c", 'read -r _ || exit 1; exec "$@" </dev/null', "sh", *command]


class SandboxProcess:
    """The constructor starts bubblewrap; the command itself waits for `release`. Close it with `destroy`.

    `marker` is the first word of the argv of bubblewrap and of the namespace's init, by which `reap` finds them.
    `init` is the first process of the sandbox's pid namespace: when it is gone, everything inside is.
    """

    def __init__(
        self,
        spawner: Spawner,
        program: str,
        marker: str,
        arguments: Sequence[str],
        command: Sequence[str],
        filter_program: bytes,
    ) -> None:
        self._stdout, stdout = os.pipe2(os.O_CLOEXEC)
        self._stderr, stderr = os.pipe2(os.O_CLOEXEC)
        self._status, status = os.pipe2(os.O_CLOEXEC)
        gate, self._gate = os.pipe2(os.O_CLOEXEC)
        start, self._start = os.pipe2(os.O_CLOEXEC)
        seccomp = _memory_file("seccomp", filter_program)
        # --die-with-parent is set before the status is written, and a status nobody can read is a SIGPIPE: a
        # bubblewrap whose worker died before that moment ends without running the command.
        own = ["--json-status-fd", str(status), "--block-fd", str(gate), "--add-seccomp-fd", str(seccomp)]
        options = _memory_file("arguments", b"".join(os.fsencode(option) + b"\0" for option in (*own, *arguments)))
        try:
            self._launcher = spawner.spawn(
                program,
                [marker, "--args", str(options), "--", *command],
                stdin=start,
                stdout=stdout,
                stderr=stderr,
                inherited=(status, gate, seccomp, options),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            _close(self._stdout, self._stderr, self._status, self._gate, self._start)
            raise PlatformError(f"The sandbox can't be started: {program}: {error}.") from error
        finally:
            _close(stdout, stderr, status, gate, start, seccomp, options)
        self._launcher_handle = os.pidfd_open(self._launcher.pid)
        self._init_handle: int | None = None
        self._witness: EndingWitness | None = None
        self.init: ProcessIdentity | None = None
        self.launcher = ProcessIdentity.find(self._launcher.pid)
        self._reported = b""
        self._is_destroyed = False

    def pump(self, limit_bytes: int, on_output: OnOutput) -> OutputPump:
        """Hands over the ends of the output pipes. Call it once, before `await_setup`."""
        return OutputPump(self._stdout, self._stderr, limit_bytes, on_output)

    def await_setup(self) -> bool:
        """Waits until the namespaces exist and sets `init`; False when bubblewrap gave up before."""
        deadline = time.monotonic() + _START_SECONDS
        while b"\n" not in self._reported:
            if not _is_readable(self._status, deadline - time.monotonic()):
                raise PlatformError(f"bubblewrap made no sandbox within {_START_SECONDS:.0f} seconds.")
            data = os.read(self._status, 4096)
            if not data:
                return False
            self._reported += data
        pid = int(json.loads(self._reported.splitlines()[0])["child-pid"])
        # Its parent, bubblewrap, may have collected it already if the setup failed.
        with contextlib.suppress(ProcessLookupError):
            self._init_handle = os.pidfd_open(pid)
            self.init = ProcessIdentity.find(pid)
        return self.init is not None

    def release(self, limits: Limits, group: ControlGroup | None) -> None:
        """Puts the namespace's init into its limits, then lets it start the command."""
        assert self.init is not None
        pid = self.init.pid
        with contextlib.suppress(ProcessLookupError):
            if group is not None:
                group.add(pid)
            _, most_files = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            files = _OPEN_FILES if most_files == resource.RLIM_INFINITY else min(_OPEN_FILES, most_files)
            largest = limits.disk_bytes + FILE_SIZE_MARGIN
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (files, files))
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, largest))
            if os.geteuid() != 0:
                # Counted per user namespace since Linux 5.14; has no effect if root launched it.
                resource.prlimit(pid, resource.RLIMIT_NPROC, (limits.process_count, limits.process_count))
        # Two steps. At the first the init starts the shell of `waiting_command` and binds its own life to
        # bubblewrap's; only then may the command start, else it could outlive a worker killed in between.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._gate, b"\n")
            while not self._is_bound() and not self.wait(_BIND_POLL_SECONDS):
                pass
            if self._init_handle is not None:
                self._witness = EndingWitness.find(self._launcher.pid, self._launcher_handle, self._init_handle)
            os.write(self._start, b"\n")

    def _is_bound(self) -> bool:
        """The init has its child and sleeps: all it does between the two is the binding."""
        assert self.init is not None
        try:
            init = psutil.Process(self.init.pid)
            return has_child(self.init.pid) and init.status() == psutil.STATUS_SLEEPING
        except psutil.Error:
            return False

    def wait(self, timeout_seconds: float) -> bool:
        """True once the command has ended."""
        deadline = time.monotonic() + timeout_seconds
        if self._witness is not None:
            self._witness.wait(timeout_seconds)
        return _is_readable(self._launcher_handle, deadline - time.monotonic())

    def members(self) -> list[psutil.Process]:
        return [] if self.init is None else descendants(self.init.pid)

    def terminate(self) -> None:
        """SIGTERM to every process inside."""
        for process in self.members():
            with contextlib.suppress(psutil.Error):
                process.terminate()  # not if the pid belongs to a later process by now

    def kill(self) -> None:
        """SIGKILL to the namespace's init, with which the kernel kills all of it; then to bubblewrap."""
        for handle in (self._init_handle, self._launcher_handle):
            if handle is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)

    def wait_until_gone(self) -> None:
        """Kills all processes inside and returns when none is left. Raises PlatformError if one can't be killed."""
        self.kill()
        deadline = time.monotonic() + _GONE_SECONDS
        for handle in (self._init_handle, self._launcher_handle):
            if handle is not None and not _is_readable(handle, deadline - time.monotonic()):
                raise PlatformError(f"Processes of a sandbox are still there {_GONE_SECONDS:.0f} s after SIGKILL.")
        self._launcher.wait()

    def exit_code(self) -> int | None:
        """The command's own; None when the command never started or the sandbox was killed around it."""
        if self._witness is not None and self._witness.has_init_died:
            return None
        while _is_readable(self._status, 0) and (data := os.read(self._status, 4096)):
            self._reported += data
        for line in self._reported.splitlines()[1:]:
            code = json.loads(line).get("exit-code")
            if code is not None:
                return int(code)
        return None

    def launcher_code(self) -> int | None:
        """bubblewrap's own, negative for a signal; None while it runs."""
        return self._launcher.poll()

    def destroy(self) -> None:
        """Ends everything, then closes the descriptors. May be called twice."""
        if self._is_destroyed:
            return
        try:
            self.wait_until_gone()
        finally:
            self._is_destroyed = True
            if self._witness is not None:
                self._witness.close()
            _close(self._status, self._gate, self._start, self._launcher_handle)
            if self._init_handle is not None:
                _close(self._init_handle)


def _memory_file(name: str, content: bytes) -> int:
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _is_readable(descriptor: int, timeout_seconds: float) -> bool:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout_seconds) * 1000))


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
