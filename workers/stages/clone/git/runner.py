"""Runs git on the host: a trusted program on untrusted repositories, so it is hardened and limited."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.private_files import PUBLIC_UMASK
from shared.tracing import span
from workers.stages.clone.deadline import Deadline
from workers.stages.clone.git.confinement import Confinement, too_large
from workers.stages.clone.git.http_answers import HttpAnswer
from workers.stages.clone.git.output import Messages, Output
from workers.stages.clone.git.trace import GitTrace
from workers.stages.clone.git.tree_size import MAXIMUM_ENTRIES, TreeSize, directory_bytes

# The only configuration that git reads. No hooks, no filters (such as LFS), no helpers, no redirects.
_CONFIGURATION = """\
[core]
	bigFileThreshold = 64m
	hooksPath = /dev/null
	attributesFile = /dev/null
	excludesFile = /dev/null
	fsmonitor = false
	symlinks = true
	autocrlf = false
	protectHFS = true
	protectNTFS = true
[credential]
	helper =
[init]
	templateDir =
	defaultBranch = main
[gc]
	auto = 0
[maintenance]
	auto = false
[safe]
	directory = *
[submodule]
	recurse = false
[protocol]
	version = 2
[http]
	followRedirects = false
	lowSpeedLimit = 1000
	lowSpeedTime = 60
"""
_PASSED_ON = ("PATH", "GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SIZE_INTERVAL = 0.5
# Bytes of a commit's message; far less is shown.
_MAXIMUM_MESSAGE = 64 << 10
# git fetches nothing lazily: such a contact wouldn't be bound to the address that was checked.
OFFLINE = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"}


class GitFailed(Exception):
    """git exited with `status`, which isn't 0.

    `stderr` is its standard error without progress, which may contain text of servers and file names. `messages` are
    git's own only. `answers` are the HTTP responses that it received.
    """

    def __init__(self, stderr: str, status: int, messages: Sequence[str] = ()) -> None:
        super().__init__(stderr)
        self.stderr = stderr
        self.status = status
        self.messages = messages
        self.answers: Sequence[HttpAnswer] = ()


@dataclass(frozen=True, slots=True)
class GitLimits:
    """`maximum_bytes` limits the clone's directory, `maximum_entries` the files and directories of all checkouts."""

    maximum_bytes: int
    maximum_entries: int = MAXIMUM_ENTRIES


class Git:
    """Belongs to one clone; not shared between threads. `directory` holds git's configuration and all that it fetches.

    `certificates`: a PEM file of trusted authorities, in place of the host's.
    """

    def __init__(
        self,
        directory: Path,
        limits: GitLimits,
        deadline: Deadline,
        on_stderr: Callable[[bytes], None],
        *,
        confinement: Confinement,
        certificates: Path | None = None,
    ) -> None:
        self._directory = directory
        self._limits = limits
        self._deadline = deadline
        self._on_stderr = on_stderr
        self._confinement = confinement
        self._entries: dict[Path, int] = {}
        configuration = directory / "gitconfig"
        configuration.write_text(_CONFIGURATION)
        self._environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
            "HOME": str(directory),
            "LC_ALL": "C",
            "GIT_CONFIG_GLOBAL": str(configuration),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            # None by default; each contact adds the one that it may use (`RepositoryAccess.environment`).
            "GIT_ALLOW_PROTOCOL": "",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_ADVICE": "0",
            "GIT_TRACE2_EVENT": str(directory / "git-events"),
            "GIT_TRACE2_EVENT_BRIEF": "1",
        }
        if certificates is not None:
            self._environment["GIT_SSL_CAINFO"] = str(certificates)
        # Kills git if the worker is killed. Without util-linux, git ends at its next write to the pipe.
        setpriv = shutil.which("setpriv")
        self._prefix = (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()

    @property
    def trace(self) -> Path:
        """The file to which git traces HTTP responses."""
        return self._directory / "http-answers"

    @property
    def certificates(self) -> str | None:
        """The PEM file of authorities that git trusts; None for its default."""
        return self._environment.get("GIT_SSL_CAINFO")

    def run(
        self,
        arguments: list[str],
        directory: Path,
        remote: Mapping[str, str] | None = None,
        *,
        is_silent: bool = False,
        consume: Callable[[bytes], None] | None = None,
        limit: int | None = None,
    ) -> bytes:
        """Runs git and returns its standard output. `remote` is made by `RepositoryAccess.environment`.

        `consume` gets the output in chunks, from another thread, and nothing is returned; an exception in it ends git
        and is raised here. After `limit` bytes, git is ended and they are returned.

        Raises GitFailed, Cancelled, StageFailure if the time, disk or memory limit is exceeded, and PlatformError if
        git was killed. No process is left running.
        """
        return self.run_program(
            ["git", *arguments], directory, remote, is_silent=is_silent, consume=consume, limit=limit
        )

    def read_message(self, sha: str, directory: Path, *, header: str = "") -> str:
        """Returns the commit's message, after a line with its `header` (placeholders of `git log`) if one is given.

        Reads at most 64 KiB of both, however long the message is. Raises as `run`.
        """
        form = f"--format={header}%n%B" if header else "--format=%B"
        arguments = ["log", "-1", "--no-show-signature", form, "--encoding=UTF-8", sha]
        return self.run(arguments, directory, OFFLINE, limit=_MAXIMUM_MESSAGE).decode("utf-8", "replace")

    def run_program(
        self,
        command: list[str],
        directory: Path,
        remote: Mapping[str, str] | None = None,
        *,
        is_silent: bool = False,
        consume: Callable[[bytes], None] | None = None,
        limit: int | None = None,
    ) -> bytes:
        """As `run`, for another program that contacts the repository."""
        events = Path(self._environment["GIT_TRACE2_EVENT"])
        events.unlink(missing_ok=True)
        output, messages = Output(consume, limit), Messages(None if is_silent else self._on_stderr)
        with span(f"command {_name(command)}") as command_span:
            with self._started(command, directory, remote or {}, output, messages) as process:
                self._wait(process, output)
            command_span.set("process.exit.code", process.returncode)
        if output.failure is not None:
            raise output.failure
        if process.returncode != 0 and not output.is_enough:
            trace = GitTrace.read(events)
            killed = self._confinement.find_failure(command[0], process.returncode, messages.text(), trace)
            raise killed or GitFailed(messages.text(), process.returncode, trace.messages)
        return bytes(output.data)

    @contextmanager
    def _started(
        self, command: list[str], directory: Path, remote: Mapping[str, str], output: Output, messages: Messages
    ) -> Generator[subprocess.Popen[bytes]]:
        """Starts the program within its limits, read by two threads. Leaving the context ends it, then the threads."""
        process = subprocess.Popen(
            self._confinement.command([*self._prefix, *command]),
            cwd=directory,
            env=self._environment | dict(remote),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            # Builds see the file modes of a checkout.
            umask=PUBLIC_UMASK,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        readers = [
            threading.Thread(target=output.read, args=(process.stdout,), daemon=True),
            threading.Thread(target=messages.read, args=(process.stderr,), daemon=True),
        ]
        for reader in readers:
            reader.start()
        try:
            yield process
        finally:
            # Also after success: a helper that outlived git would hold the pipes open.
            end_group(process)
            for reader in readers:
                reader.join()
            process.stdout.close()
            process.stderr.close()

    def _wait(self, process: subprocess.Popen[bytes], output: Output) -> None:
        next_size_check = time.monotonic() + _SIZE_INTERVAL
        pause = 0.002
        while True:
            try:
                process.wait(timeout=pause)
                return
            except subprocess.TimeoutExpired:
                pause = min(pause * 2, 0.05)
            if output.failure is not None or output.is_enough:
                return
            self._deadline.check()
            self._confinement.check_memory(process.pid)
            now = time.monotonic()
            if now > next_size_check:
                self.check_size()
                # Measure less often if the tree is so large that measuring it is slow.
                next_size_check = time.monotonic() + max(_SIZE_INTERVAL, 10 * (time.monotonic() - now))

    def check_tree(self, sha: str, directory: Path, *, has_files: bool = True) -> None:
        """Raises StageFailure if the commit is too large to be checked out into `directory`, together with the commits
        of the directories that were checked before. `has_files`: its files were fetched, not only its trees."""
        former = sum(count for path, count in self._entries.items() if path != directory)
        size = TreeSize(self._limits.maximum_entries, former)
        sizes = ["-l"] if has_files else []
        arguments = ["ls-tree", "-r", "-t", *sizes, "-z", "--full-tree", sha]
        self.run(arguments, directory, OFFLINE, is_silent=True, consume=size.add)
        if has_files:
            self._entries[directory] = size.entries
            self.check_size(size.file_bytes)

    def check_size(self, expected_bytes: int = 0) -> None:
        """Raises StageFailure if the clone's directory, plus `expected_bytes`, exceeds its limit."""
        if directory_bytes(self._directory) + expected_bytes > self._limits.maximum_bytes:
            raise too_large(self._limits.maximum_bytes)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and its whole group. Returns when the process is reaped."""
    for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _name(command: Sequence[str]) -> str:
    """The program and its subcommand; no more of it, as arguments name a tenant's branches and addresses."""
    program, *arguments = command
    while arguments and arguments[0].startswith("-"):
        # `git -c name=value` and `git -C directory` have their value apart.
        arguments = arguments[2:] if arguments[0] in ("-c", "-C") else arguments[1:]
    is_git = Path(program).name == "git"
    return f"git {arguments[0]}" if is_git and arguments else Path(program).name
