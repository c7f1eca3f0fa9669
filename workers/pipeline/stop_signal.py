"""Why a stage has to stop, as one event for all reasons."""

from __future__ import annotations

import enum
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from shared.queue.base import Lease
from shared.signals import Signal


class StopReason(enum.Enum):
    """In the order in which they count, if there are several."""

    LOST = "lost"  # another worker holds the job now
    CANCELLED = "cancelled"  # the user doesn't want the deployment any more
    STOPPING = "stopping"  # this process has to end


class StopSignal(threading.Event):
    """Set when a stage has to stop. `reason` says why; made by `watching`."""

    def __init__(self, signals: dict[StopReason, tuple[Signal, ...]]) -> None:
        super().__init__()
        self._signals = signals

    @classmethod
    @contextmanager
    def watching(cls, lease: Lease, log_lost: Signal) -> Generator[StopSignal]:
        """Follows the lease, and the log, which may learn first that the lease is lost."""
        signals = {
            StopReason.LOST: (lease.lost, log_lost),
            StopReason.CANCELLED: (lease.cancelled,),
            StopReason.STOPPING: (lease.stopping,),
        }
        stop = cls(signals)
        with ExitStack() as listening:
            for signal in (signal for group in signals.values() for signal in group):
                listening.callback(signal.listen(stop.set))
            yield stop

    @property
    def reason(self) -> StopReason | None:
        return next((reason for reason, signals in self._signals.items() if any(s.is_set() for s in signals)), None)
