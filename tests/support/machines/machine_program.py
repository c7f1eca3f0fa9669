"""The first process of a test's machine: keeps its programs running. Ends, and with it the machine, with its stdin.

The first line of stdin is JSON: {"name", "programs": [{"role", "arguments", "environment"}], "logs": folder}.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_RESTART_SECONDS = 0.5
_CONTROL_GROUPS = Path("/sys/fs/cgroup")


def main() -> None:
    machine: dict[str, Any] = json.loads(sys.stdin.buffer.raw.readline())  # type: ignore[attr-defined]
    socket.sethostname(machine["name"])
    if _CONTROL_GROUPS.is_dir():
        # They are the whole kernel's, and each machine has numbers of its own for processes.
        subprocess.run(["mount", "-t", "tmpfs", "none", _CONTROL_GROUPS], check=True)
    logs = Path(machine["logs"])
    running: dict[int, dict[str, Any]] = {}
    due: list[tuple[float, dict[str, Any]]] = [(0.0, program) for program in machine["programs"]]
    while True:
        now = time.monotonic()
        for entry in [entry for entry in due if entry[0] <= now]:
            due.remove(entry)
            running[_start(entry[1], logs)] = entry[1]
        for pid, status in _ended():
            program = running.pop(pid, None)
            if program is not None:
                print(f"{time.time():.3f} {program['role']} ended ({status})", flush=True)
                due.append((now + _RESTART_SECONDS, program))
        if select.select([0], [], [], 0.1)[0]:
            return


def _start(program: dict[str, Any], logs: Path) -> int:
    with (logs / f"{program['role']}.log").open("ab") as log:
        process = subprocess.Popen(
            program["arguments"],
            env=program["environment"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process.returncode = 0  # collected below, together with orphans
    return process.pid


def _ended() -> list[tuple[int, int]]:
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main()
