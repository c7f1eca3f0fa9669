"""The hub ends even when a cancellation is lost on the way."""

from __future__ import annotations

import asyncio
from typing import Any

from api.streams.log_hub import LogHub


class DeafListener:
    """Loses the first cancellations, as a library's own timeout may do."""

    def __init__(self, lost: int) -> None:
        self.is_connected = True
        self.lost = lost

    def watch(self, deployment_id: str) -> None:
        """Nobody watches here."""

    unwatch = watch

    async def run(self, _handler: Any) -> None:
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if self.lost == 0:
                    raise
                self.lost -= 1


def test_close_repeats_a_cancellation_that_was_lost() -> None:
    async def run() -> None:
        listener = DeafListener(lost=2)
        hub = LogHub(None, listener)  # type: ignore[arg-type]
        await hub.start()
        await asyncio.sleep(0)
        async with asyncio.timeout(120):
            await hub.close()
        assert listener.lost == 0

    asyncio.run(run())
