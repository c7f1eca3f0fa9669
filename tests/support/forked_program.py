"""A program for the fork server: says what it has, and waits or ends as its first argument tells."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def main() -> int:
    state = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "session": os.getsid(0),
        "descriptors": [str(Path(f"/proc/self/fd/{number}").readlink()) for number in (0, 1, 2)],
        "open": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    }
    print(json.dumps(state), flush=True)
    if sys.argv[1] == "wait":
        signal.pause()
    return int(sys.argv[1])


def start_and_wait(directory: str) -> None:
    """Run by a process that a test kills: forks one that waits, writes its id to `pid` and waits itself."""
    from shared.stack.forks import ForkServer

    folder = Path(directory)
    server = ForkServer(
        [sys.executable, "-m", "shared.stack.fork_server", "tests.support.forked_program"],
        folder / "server.log",
        folder,
        {},
    )
    server.launch()
    process = server.fork("waits", [__name__, "wait"], log_path=folder / "child.log", environment={})
    (folder / "pid.new").write_text(str(process.pid))
    (folder / "pid.new").rename(folder / "pid")
    signal.pause()
