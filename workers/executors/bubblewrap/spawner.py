"""Starts processes from one thread that lives as long as the worker."""

from __future__ import annotations

import queue
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from shared.private_files import PUBLIC_UMASK


@dataclass(frozen=True, slots=True)
class _Request:
    program: str
    argv: Sequence[str]
    stdin: int
    stdout: int
    stderr: int
    inherited: Sequence[int]
    process: Future[subprocess.Popen[bytes]]


class Spawner:
    """`bwrap --die-with-parent` follows the thread that started it (prctl(2), PR_SET_PDEATHSIG), not the process.

    Started from a job's thread, the sandbox would die with that thread; from this one, with the worker.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="sandbox-spawner", daemon=True).start()

    def spawn(
        self, program: str, argv: Sequence[str], *, stdin: int, stdout: int, stderr: int, inherited: Sequence[int]
    ) -> subprocess.Popen[bytes]:
        """Starts `program` with no environment and only the descriptors named; `argv[0]` is just a name.

        Raises OSError.
        """
        process: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put(_Request(program, argv, stdin, stdout, stderr, inherited, process))
        return process.result()

    def _serve(self) -> None:
        while True:
            request = self._requests.get()
            try:
                process = subprocess.Popen(
                    request.argv,
                    executable=request.program,
                    stdin=request.stdin,
                    stdout=request.stdout,
                    stderr=request.stderr,
                    pass_fds=request.inherited,
                    env={},
                    cwd="/",
                    umask=PUBLIC_UMASK,
                )
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                request.process.set_exception(error)
            else:
                request.process.set_result(process)
