"""How long streams wait for what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamTiming:
    """Seconds.

    `heartbeat`: between comments that keep a connection alive. `stall`: a client that takes nothing for so long is
    let go. `maximum_age`: a stream is asked to come back after it (less up to a tenth), which checks its rights anew.
    `poll`: between looks at the store while Redis is down. `compare`: between looks while it is up. `acknowledge`: how
    long a new stream waits for its subscription before it goes on without. `farewell`: how much longer than `stall` a
    client may take to hear that it was too slow. `position`: between looks at the queue for deployments that wait.
    """

    heartbeat: float = 15.0
    stall: float = 30.0
    maximum_age: float = 3600.0
    poll: float = 1.0
    compare: float = 15.0
    acknowledge: float = 1.0
    farewell: float = 5.0
    position: float = 1.0
