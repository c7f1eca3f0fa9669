"""Processes whose main thread waits, and that get signals in unlucky ways."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_START = """
import os, signal, threading
from shared.stop_signals import on_stop_signals
asked = threading.Semaphore(0)
stop = threading.Event()
def ask():
    asked.release()
    stop.set()
on_stop_signals(ask)
"""


def run(program: str) -> int:
    return subprocess.run([sys.executable, "-c", _START + program], timeout=120, check=False).returncode


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_another_thread_receives_ends_the_wait(number: signal.Signals) -> None:
    """The kernel chooses the thread of a signal that is sent to a process."""
    program = f"""
threading.Timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), {number.value})).start()
stop.wait()
"""
    assert run(program) == 0


def test_a_signal_while_the_main_thread_holds_the_lock_of_the_event() -> None:
    program = """
with stop._cond:
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):
        pass
stop.wait()
"""
    assert run(program) == 0


def test_each_signal_counts() -> None:
    program = """
for _ in range(2):
    os.kill(os.getpid(), signal.SIGTERM)
    asked.acquire()
"""
    assert run(program) == 0


def test_a_child_keeps_its_signals_to_itself() -> None:
    program = """
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert not asked.acquire(timeout=0.5)
"""
    assert run(program) == 0
