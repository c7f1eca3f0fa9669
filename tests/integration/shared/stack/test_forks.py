"""Processes that the fork server starts are the supervisor's own, with or without the fork server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.stack.forks import ForkedProcess, ForkFailed, ForkServer
from tests.support.running_platform import is_running, wait_for

PROGRAM = "tests.support.forked_program"
ROOT = Path(__file__).parents[4]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ForkServer]:
    made = ForkServer(
        [sys.executable, "-m", "shared.stack.fork_server", PROGRAM],
        tmp_path / "server.log",
        tmp_path,
        {"PYTHONPATH": str(ROOT), "FROM_THE_SERVER": "1"},
    )
    process = made.launch()
    yield made
    made.close()
    process.wait()


def fork(server: ForkServer, folder: Path, argument: str) -> ForkedProcess:
    return server.fork("a-role", [PROGRAM, argument], log_path=folder / "child.log", environment={"OF_ITS_OWN": "2"})


def said(folder: Path) -> dict[str, Any]:
    log = folder / "child.log"
    return json.loads(wait_for(lambda: log.exists() and log.read_text(), what="the program says what it has"))


def test_a_forked_process_is_like_one_that_was_started(server: ForkServer, tmp_path: Path) -> None:
    process = fork(server, tmp_path, "wait")
    state = said(tmp_path)
    assert state["arguments"] == ["wait"]
    assert state["environment"] == {**os.environ, "OF_ITS_OWN": "2"}
    assert state["directory"] == str(tmp_path)
    assert state["session"] == process.pid
    assert state["descriptors"] == ["/dev/null", str(tmp_path / "child.log"), str(tmp_path / "child.log")]
    # The fourth is the folder that is being listed.
    assert len(state["open"]) == 4
    known = psutil.Process(process.pid)
    assert known.ppid() == os.getpid()
    assert known.name() == "a-role"
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.send_signal(signal.SIGTERM)  # collected: nobody is signalled


@pytest.mark.parametrize("code", [0, 3])
def test_its_exit_code_is_known(server: ForkServer, tmp_path: Path, code: int) -> None:
    assert fork(server, tmp_path, str(code)).wait(60) == code


def test_it_survives_the_fork_server_whose_end_is_told(server: ForkServer, tmp_path: Path) -> None:
    process = fork(server, tmp_path, "wait")
    said(tmp_path)
    server.close()
    with pytest.raises(ForkFailed):
        fork(server, tmp_path, "0")
    assert process.poll() is None
    second = server.launch()
    assert fork(server, tmp_path, "0").wait(60) == 0
    process.kill()
    process.wait()
    server.close()
    second.wait()


def test_a_fork_server_that_is_killed_fails_the_fork(server: ForkServer, tmp_path: Path) -> None:
    [killed] = [child for child in psutil.Process().children() if "shared.stack.fork_server" in child.cmdline()]
    killed.kill()
    with pytest.raises(ForkFailed):
        fork(server, tmp_path, "0")


def test_everything_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    asking = subprocess.Popen(
        [sys.executable, "-c", f"from {PROGRAM} import start_and_wait; start_and_wait({str(tmp_path)!r})"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        wait_for((tmp_path / "pid").exists, what="a process is forked")
        below = psutil.Process(asking.pid).children(recursive=True)
        assert int((tmp_path / "pid").read_text()) in {process.pid for process in below}
        assert len(below) == 2
    finally:
        asking.kill()
        asking.wait()
    wait_for(lambda: not any(is_running(process) for process in below), what="nothing is left")
