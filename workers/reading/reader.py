"""The worker's side: asks a child process about a tree that a tenant wrote, and judges how the child ended.

Tenants choose every byte of such a tree, so no code that interprets one runs in a worker: an endless computation there
holds the interpreter, and with it the jobs of all tenants. A child has CPU time, memory and a deadline of its own and
is killed on cancel. A child that ends by one of these limits is the user's failure; any other death is the platform's.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import msgspec

from shared.errors import Cancelled, FailureCode, PlatformError, StageFailure
from shared.text.written import escaped
from workers.artifacts.first_page import FirstPage
from workers.artifacts.output_tree import OutputLimits
from workers.reading.child import OUT_OF_MEMORY, PROGRESS_BYTES
from workers.reading.lfs_pointers import split_names
from workers.reading.project import ProjectQuestion, ProjectReading

Answer = TypeVar("Answer")

_Index = Annotated[int, msgspec.Meta(ge=0)]
_Size = Annotated[int, msgspec.Meta(ge=0, lt=10**15)]
_Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_SitePath = Annotated[str, msgspec.Meta(pattern="^[^/]", max_length=4096)]

_POLL_SECONDS = 0.02
_CHUNK = 65536
# Answers that are kept for the next deployment of the same tree.
_KEPT_ANSWERS = 256
_MAXIMUM_KEPT_BYTES = 65536
_ROOT = Path(__file__).resolve().parents[2]
_START = "import sys; sys.path += sys.argv[1:]; from workers.reading.child import main; main()"
_PASSED_ON = ("LD_LIBRARY_PATH",)


@dataclass(frozen=True, slots=True)
class ReadingLimits:
    """Of one child. A repository of 20 000 sources takes some 3 s of CPU time and 100 MiB."""

    cpu_seconds: int = 15
    memory_bytes: int = 512 << 20
    wall_seconds: float = 180
    answer_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class OutputReading:
    """`files`: path on the site → the file of the tree that holds its content (relative) and its size."""

    files: dict[str, tuple[str, int]]
    first_page: FirstPage


class _Output(msgspec.Struct):
    files: list[tuple[_SitePath, _SitePath, _Size]]
    first_page: FirstPage


class _Failure(msgspec.Struct):
    code: FailureCode
    message: Annotated[str, msgspec.Meta(min_length=1, max_length=4000)]


class _Envelope(msgspec.Struct):
    reading: msgspec.Raw = msgspec.Raw()
    failure: _Failure | None = None


class ContentReader:
    """Safe between threads: each question has a child of its own, at most one for each thread."""

    def __init__(self, limits: ReadingLimits = ReadingLimits()) -> None:
        self._limits = limits
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._lock = threading.Lock()
        # Ends the child when the worker is killed; where util-linux is missing, its limits do.
        setpriv = shutil.which("setpriv")
        self._prefix = (setpriv, "--pdeathsig", "KILL", "--no-new-privs", "--") if setpriv else ()

    def read_project(
        self, tree: Path, question: ProjectQuestion, cancelled: threading.Event, content: str
    ) -> ProjectReading:
        """`content` names what is in the tree: the same question about the same content needs no child again.

        Raises StageFailure, PlatformError, Cancelled.
        """
        arguments = asdict(question)
        key = (content, repr(arguments))
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        data = self._ask("project", tree, arguments, cancelled) if kept is None else kept
        reading = _decode(data, ProjectReading)
        if len(data) <= _MAXIMUM_KEPT_BYTES:
            with self._lock:
                self._kept[key] = data
                while len(self._kept) > _KEPT_ANSWERS:
                    self._kept.popitem(last=False)
        return reading

    def read_lfs_pointers(self, tree: Path, names: IO[bytes], cancelled: threading.Event) -> list[tuple[str, str, int]]:
        """Name, SHA-256 and bytes, of each of the files that is a pointer of Git LFS. `names`: a file of its own that
        holds their names, each ended by NUL. Raises as `read_project`."""
        names.flush()
        data = self._ask("lfs_pointers", tree, {"names": names.fileno()}, cancelled, passed=(names.fileno(),))
        found = _decode(data, list[tuple[_Index, _Digest, _Size]])
        given = split_names(names) if found else []
        if any(index >= len(given) for index, _, _ in found):
            raise PlatformError("What reads repositories gave no usable answer.")
        return [(os.fsdecode(given[index]), oid, size) for index, oid, size in found]

    def scan_output(self, tree: Path, limits: OutputLimits, cancelled: threading.Event) -> OutputReading:
        """Links inside the tree stand for what they point at. Raises as `read_project`."""
        data = self._ask("output", tree, asdict(limits), cancelled, FailureCode.OUTPUT_INVALID)
        found = _decode(data, _Output)
        if any(".." in source.split("/") for _, source, _ in found.files):
            raise PlatformError("What reads repositories gave no usable answer.")
        return OutputReading({path: (source, size) for path, source, size in found.files}, found.first_page)

    def _ask(
        self,
        function: str,
        tree: Path,
        arguments: Any,
        cancelled: threading.Event,
        code: FailureCode = FailureCode.CONFIGURATION_INVALID,
        *,
        passed: tuple[int, ...] = (),
    ) -> bytes:
        """The answer of a child that ended by itself and well. `code`: of the failure when it passes a limit.

        `passed`: descriptors that the arguments name.
        """
        with tempfile.TemporaryFile() as request, tempfile.TemporaryFile() as progress:
            progress.truncate(PROGRESS_BYTES)
            limits = {"cpu_seconds": self._limits.cpu_seconds, "memory_bytes": self._limits.memory_bytes}
            question = {
                "function": function,
                "tree": str(tree),
                "arguments": arguments,
                "progress": progress.fileno(),
                "parent": os.getpid(),
            }
            request.write(f"{json.dumps(limits)}\n{json.dumps(question)}\n".encode())
            request.seek(0)
            process = self._start(request, (progress.fileno(), *passed))
            try:
                exceeded, answer = self._wait(process, cancelled)
            finally:
                _kill(process)
                if process.stdout is not None:
                    process.stdout.close()
            limit = exceeded or self._own_limit(process.returncode)
            if limit is not None:
                raise StageFailure(code, _message(code, limit, _last_read(progress)))
        if process.returncode != 0:
            told = bytes(answer[-500:]).decode("utf-8", "replace").strip()
            raise PlatformError(f"What reads repositories ended with status {process.returncode}: {told}")
        return bytes(answer)

    def _start(self, request: IO[bytes], passed: tuple[int, ...]) -> subprocess.Popen[bytes]:
        # Without `site`, as fast as can be. Modules are looked for where this process finds them.
        paths = dict.fromkeys([str(_ROOT), *(path for path in sys.path if Path(path).is_absolute())])
        return subprocess.Popen(
            [*self._prefix, sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _START, *paths],
            stdin=request,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            pass_fds=passed,
            start_new_session=True,
        )

    def _wait(self, process: subprocess.Popen[bytes], cancelled: threading.Event) -> tuple[str | None, bytearray]:
        """The limit that the child has to be killed for, if any, and what it answered. Raises Cancelled."""
        assert process.stdout is not None
        deadline = time.monotonic() + self._limits.wall_seconds
        answer, pipe = bytearray(), process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        is_open = True
        while is_open or process.poll() is None:
            if cancelled.is_set():
                raise Cancelled
            if time.monotonic() > deadline:
                return f"took longer than {self._limits.wall_seconds:g} seconds", answer
            if not is_open:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
            elif poll.poll(_POLL_SECONDS * 1000):
                data = os.read(pipe, _CHUNK)
                is_open = bool(data)
                answer += data
                if len(answer) > self._limits.answer_bytes:
                    return "named more than can be recorded", answer
        return None, answer

    def _own_limit(self, status: int) -> str | None:
        if status == -signal.SIGXCPU:
            return f"took more than {self._limits.cpu_seconds} seconds of processor time"
        if status == OUT_OF_MEMORY:
            return f"took more than {self._limits.memory_bytes >> 20} MiB of memory"
        return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Returns when the child is gone and reaped. It starts no processes of its own."""
    if process.poll() is None:
        process.kill()
    process.wait()


def _decode(data: bytes, kind: type[Answer]) -> Answer:
    """The child read hostile content, so its answer is taken for no more than data of the right form."""
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if envelope.reading and envelope.failure is None:
            return msgspec.json.decode(envelope.reading, type=kind)
    except msgspec.DecodeError as error:
        raise PlatformError(f"What reads repositories gave no usable answer: {error}") from error
    if envelope.failure is None or envelope.failure.code is FailureCode.PLATFORM_ERROR:
        raise PlatformError("What reads repositories gave no usable answer.")
    raise StageFailure(envelope.failure.code, envelope.failure.message)


def _last_read(progress: IO[bytes]) -> str:
    """The path that the child read last, as it may be shown; empty when it read none."""
    return escaped(os.pread(progress.fileno(), PROGRESS_BYTES, 0).partition(b"\0")[0].decode("utf-8", "replace"))


def _message(code: FailureCode, limit: str, path: str) -> str:
    last = f" The last file that was read is {path}." if path else ""
    if code is FailureCode.OUTPUT_INVALID:
        return f"Listing the output {limit}, so it was stopped.{last} Write fewer and simpler symbolic links to it."
    return (
        f"Reading the repository's files {limit}, so it was stopped.{last} Simplify that file (fewer and shorter"
        " patterns, less nesting), remove what the site doesn't need, or set a smaller root directory."
    )
