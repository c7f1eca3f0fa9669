"""The pump between a command's pipes and the caller: no output is lost, and neither pipe blocks the other."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Literal

import pytest

from workers.executors.output_pump import OutputPump

TIMEOUT_SECONDS = 60.0
KIBIBYTE = 1024


class Taker:
    """Takes the output; waits at each piece until `gate` is open."""

    def __init__(self, *, is_open: bool) -> None:
        self.gate = threading.Event()
        self.waits = threading.Event()
        self.pieces: list[tuple[str, bytes]] = []
        if is_open:
            self.gate.set()

    def __call__(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        self.waits.set()
        assert self.gate.wait(TIMEOUT_SECONDS)
        self.pieces.append((stream, data))

    def text(self, stream: str) -> bytes:
        return b"".join(data for name, data in self.pieces if name == stream)


def pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    return os.pipe(), os.pipe()


def room(descriptor: int) -> int:
    """How many bytes one write puts into the empty pipe without waiting."""
    return fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) - 8 * KIBIBYTE


def in_thread(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_a_program_that_fills_one_stream_before_it_touches_the_other(first: int, second: int) -> None:
    """Either stream may be far ahead of the other: a reader that waited for one of them would hang here."""
    script = (
        "import os\n"
        f"for _ in range(64): os.write({first}, b'a' * 32768)\n"
        f"for _ in range(64): os.write({second}, b'b' * 32768)\n"
        f"for _ in range(64): os.write({first}, b'c' * 7), os.write({second}, b'd' * 7)\n"
    )
    (stdout, out), (stderr, err) = pipes()
    taker = Taker(is_open=True)
    pump = OutputPump(stdout, stderr, 1 << 30, taker)
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", script], stdout=out, stderr=err)
    os.close(out)
    os.close(err)
    try:
        assert process.wait(TIMEOUT_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
    pump.finish(did_start=True)
    names = {1: "stdout", 2: "stderr"}
    assert taker.text(names[first]) == b"a" * 64 * 32768 + b"c" * 64 * 7
    assert taker.text(names[second]) == b"b" * 64 * 32768 + b"d" * 64 * 7


def test_a_command_waits_while_its_output_is_not_taken() -> None:
    (stdout, out), (stderr, err) = pipes()
    taker = Taker(is_open=False)
    pump = OutputPump(stdout, stderr, 1 << 30, taker)
    written = 0

    def write() -> None:
        nonlocal written
        for _ in range(1024):
            os.write(out, b"x" * KIBIBYTE)
            written += KIBIBYTE
        os.close(out)

    os.write(out, b"first\n")
    assert taker.waits.wait(TIMEOUT_SECONDS)
    writer = in_thread(write)
    # Only what fits into the pipe; the pump made it larger before it began to read.
    writer.join(0.2)
    assert writer.is_alive()
    assert written <= 256 * KIBIBYTE
    taker.gate.set()
    writer.join(TIMEOUT_SECONDS)
    os.close(err)
    pump.finish(did_start=True)
    assert taker.text("stdout") == b"first\n" + b"x" * 1024 * KIBIBYTE


def test_nothing_is_lost_when_the_taker_is_slower_than_the_grace() -> None:
    """The database is away while the command ends: what is left in both pipes comes all the same."""
    (stdout, out), (stderr, err) = pipes()
    taker = Taker(is_open=False)
    pump = OutputPump(stdout, stderr, 1 << 30, taker)
    os.write(out, b"first\n")
    assert taker.waits.wait(TIMEOUT_SECONDS)
    printed, complained = b"o" * room(out), b"e" * room(err)
    os.write(out, printed)
    os.write(err, complained)
    os.close(out)
    os.close(err)
    finishing = in_thread(lambda: pump.finish(did_start=True, grace_seconds=0.01))
    finishing.join(0.1)
    assert finishing.is_alive()
    taker.gate.set()
    finishing.join(TIMEOUT_SECONDS)
    assert not finishing.is_alive()
    assert taker.text("stdout") == b"first\n" + printed
    assert taker.text("stderr") == complained


def test_what_the_pipe_holds_comes_although_somebody_else_keeps_it_open() -> None:
    (stdout, out), (stderr, err) = pipes()
    taker = Taker(is_open=False)
    pump = OutputPump(stdout, stderr, 1 << 30, taker)
    os.write(out, b"first\n")
    assert taker.waits.wait(TIMEOUT_SECONDS)
    printed = b"o" * room(out)
    os.write(out, printed)
    finishing = in_thread(lambda: pump.finish(did_start=True, grace_seconds=0.01))
    taker.gate.set()
    finishing.join(TIMEOUT_SECONDS)
    assert not finishing.is_alive()
    assert taker.text("stdout") == b"first\n" + printed
    os.close(out)
    os.close(err)


def test_lines_that_come_one_by_one_arrive_whole_and_in_order() -> None:
    (stdout, out), (stderr, err) = pipes()
    taker = Taker(is_open=True)
    pump = OutputPump(stdout, stderr, 1 << 30, taker)
    lines = [b"line %d\n" % number for number in range(3000)]
    for line in lines:
        os.write(out, line)
    os.close(out)
    os.close(err)
    pump.finish(did_start=True)
    assert taker.text("stdout") == b"".join(lines)


def test_a_taker_that_fails_does_not_stop_the_command() -> None:
    def refuse(_stream: Literal["stdout", "stderr"], _data: bytes) -> None:
        raise ValueError("no")

    (stdout, out), (stderr, err) = pipes()
    pump = OutputPump(stdout, stderr, 1 << 30, refuse)
    for _ in range(64):
        os.write(out, b"x" * 32 * KIBIBYTE)
    os.close(out)
    os.close(err)
    pump.finish(did_start=True)
    assert isinstance(pump.error, ValueError)
