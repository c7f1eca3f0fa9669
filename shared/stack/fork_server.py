"""`python -m shared.stack.fork_server MODULE…`: forks processes that share the memory of these modules.

Standard input is a socket. Each message on it is a `ForkRequest` as JSON; the new process answers with its id in
decimal. It is a child of the process that asks (see `ForkServer`) and outlives this one, which ends with the socket.

This process has one thread and opens nothing, so a fork of it inherits no lock, connection or secret of another's.
"""

from __future__ import annotations

import gc
import importlib
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from shared.stack.processes import die_with_parent, name_process

LARGEST_MESSAGE = 1 << 20


class ForkRequest(msgspec.Struct, frozen=True):
    """`arguments`: a module with a `main` without parameters, and what it finds in `sys.argv`.

    `parent`: the id of the process that asks. `environment` replaces this process's.
    """

    parent: int
    role: str
    arguments: list[str]
    environment: dict[str, str]
    directory: str
    log_path: str


def main() -> int:
    # Freed objects between shared ones would be used by the children, which would copy the pages then.
    gc.disable()
    for module in sys.argv[1:]:
        importlib.import_module(module)
    _forget_metrics()
    gc.collect()
    gc.freeze()
    requests = socket.socket(fileno=sys.stdin.fileno())
    while message := requests.recv(LARGEST_MESSAGE):
        request = msgspec.json.decode(message, type=ForkRequest)
        if _fork(request):
            return _run(request, requests)
    return 0


def _forget_metrics() -> None:
    """Deletes the files of the metrics that were made with the modules: a child writes to its own."""
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for file in Path(directory).glob(f"*_{os.getpid()}.db") if directory else ():
        file.unlink(missing_ok=True)


def _fork(request: ForkRequest) -> bool:
    """Returns True in the new process, once it is the asking process's child."""
    between = os.fork()
    if between != 0:
        os.waitpid(between, 0)
        return False
    parent = os.getpid()
    if os.fork() != 0:
        os._exit(0)
    while os.getppid() == parent:
        time.sleep(0.001)
    die_with_parent(request.parent)
    return True


def _run(request: ForkRequest, requests: socket.socket) -> int:
    # By itself, so that nobody waits for one that ended before. Its descriptor is replaced below.
    requests.send(str(os.getpid()).encode())
    requests.detach()
    gc.enable()
    os.setsid()
    name_process(request.role)
    os.chdir(request.directory)
    os.environ.clear()
    os.environ.update(request.environment)
    _redirect(request.log_path)
    sys.argv = list(request.arguments)
    module: Any = importlib.import_module(request.arguments[0])
    return module.main()


def _redirect(log_path: str) -> None:
    nothing, log = os.open(os.devnull, os.O_RDONLY), os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for descriptor, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    for descriptor in (nothing, log):
        os.close(descriptor)


if __name__ == "__main__":
    raise SystemExit(main())
