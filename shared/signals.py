"""Events that tell those who wait for one of several."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Signal(threading.Event):
    """An event with listeners. They run on the thread that sets it, so they must be quick and must not raise."""

    def __init__(self) -> None:
        super().__init__()
        self._listeners: list[Callable[[], None]] = []

    def set(self) -> None:
        super().set()
        for listener in list(self._listeners):
            listener()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Calls `listener` when the signal is set, or at once if it is. Returns what ends that; call it once."""
        self._listeners.append(listener)
        if self.is_set():
            listener()

        def end() -> None:
            self._listeners.remove(listener)

        return end
