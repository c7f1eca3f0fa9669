"""Shows the position in the queue of watched deployments that wait there; their logs have no entry for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice

import anyio
import anyio.to_thread

from api.streams.log_channel import LogChannel
from shared.errors import Unavailable

_logger = logging.getLogger(__name__)

# Asked for at once; each is a round trip to the queue.
_CHANNELS_AT_ONCE = 200

# Deployments → positions in the queue, 1 being next, of those that wait. Called from a thread; raises Unavailable.
AskPositions = Callable[[Sequence[str]], Mapping[str, int]]


async def show_positions(channels: Callable[[], Collection[LogChannel]], ask: AskPositions, seconds: float) -> None:
    """Runs until cancelled, asking every `seconds`. While the queue doesn't answer, shown positions stay."""
    # A thread of its own: readers of logs don't wait for a queue that doesn't answer.
    limiter = anyio.CapacityLimiter(1)
    asked: list[LogChannel] = []
    while True:
        await asyncio.sleep(seconds)
        queued = [channel for channel in channels() if channel.is_queued]
        if not queued:
            continue
        # In turns, if there are many: first those that weren't asked for last time.
        last = set(asked)
        queued.sort(key=last.__contains__)
        asked = list(islice(queued, _CHANNELS_AT_ONCE))
        identifiers = [channel.deployment_id for channel in asked]
        try:
            found = await anyio.to_thread.run_sync(ask, identifiers, limiter=limiter, abandon_on_cancel=True)
        except Unavailable:
            continue
        except Exception:
            _logger.exception("The positions of deployments in the queue could not be read.")
            continue
        for channel in asked:
            channel.show_position(found.get(channel.deployment_id))
