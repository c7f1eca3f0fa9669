"""A hub's listener when Redis is unreachable."""

from __future__ import annotations

import asyncio
from typing import Any


class SilentListener:
    """Never connects, so that the hub compares heads all the time."""

    is_connected = False

    def watch(self, deployment_id: str) -> None:
        """Nothing to subscribe to."""

    unwatch = watch

    async def run(self, handler: Any) -> None:
        assert handler is not None
        await asyncio.Event().wait()
