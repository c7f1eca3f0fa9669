"""SIGTERM and SIGINT for a process whose main thread waits.

Python runs a signal's handler on the main thread, when that executes Python. The kernel may deliver the signal to any
thread of the process: a main thread that waits for a lock is then not woken, and the process doesn't end before it is
killed. A handler that sets an event has another flaw: the main thread may hold the event's lock at that moment. So a
thread of its own reads the signals from a pipe, to which Python's own handler writes at once, on whatever thread.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from shared.background import BackgroundThread

_NUMBERS = (signal.SIGTERM, signal.SIGINT)


def on_stop_signals(ask: Callable[[], object]) -> None:
    """Calls `ask` for each of the two signals from now on, on a thread of its own.

    Call it once in a process, on the main thread, before anything else runs.
    """
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    # A child without a program of its own would tell this process of its signals.
    os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
    for number in _NUMBERS:
        signal.signal(number, lambda _number, _frame: None)

    def listen(_stopping: threading.Event) -> None:
        while received := os.read(readable, 1):
            if received[0] in _NUMBERS:
                ask()

    BackgroundThread("stop-signals", listen).start()
