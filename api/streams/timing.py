"""The timing of streams."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamTiming:
    """Seconds.

    `heartbeat`: between comments that keep a connection alive. `stall`: a stream ends when its
    client reads nothing for so long. `maximum_age`: a stream's client is asked to reconnect after it (less up to a
    tenth), which checks its rights again. `poll`: between reads of the store while Redis is down. `compare`: between
    comparisons with the store while it is up. `acknowledge`: how long a new stream waits for its subscription before it
    continues without. `slow_notice`: how much longer than `stall` a client may take to hear that it was too slow.
    `position`: between reads of the queue for waiting deployments.
    """

    heartbeat: float = 15.0
    stall: float = 30.0
    maximum_age: float = 3600.0
    poll: float = 1.0
    compare: float = 15.0
    acknowledge: float = 1.0
    slow_notice: float = 5.0
    position: float = 1.0
