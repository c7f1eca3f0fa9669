"""The status changes of accounts as a stream's source, and its right to them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from api.edge.turns import Caller
from api.streams.account_channel import ready_event
from api.streams.account_hub import AccountHub, AccountWatch
from api.streams.sse import EventChunk, Feed
from api.streams.stream_lease import StreamRight
from shared.accounts.permissions import ROLES_WITH, Permission
from shared.accounts.stream_rights import StreamRights


@dataclass(frozen=True, slots=True)
class AccountStreamRight(StreamRight):
    """`tenant_ids` are all tenants whose changes the principal may see. The stream also ends when there is one more,
    and its client reconnects to follow that one as well."""

    def holds(self, now: StreamRights) -> bool:
        visible = frozenset(
            tenant_id
            for tenant_id, role in now.roles.get(self.principal.user_id, {}).items()
            if role in ROLES_WITH[Permission.DEPLOY_READ]
        )
        return visible == self.tenant_ids and StreamRight.holds(self, now)


class AccountSource:
    """The changes above the positions, then live ones. `heads` and `caller`: see AccountHub.watch."""

    def __init__(self, hub: AccountHub, positions: Mapping[str, int], heads: Mapping[str, int], caller: Caller) -> None:
        self._hub = hub
        self._positions = positions
        self._heads = heads
        self._caller = caller

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Feed]:
        async with self._hub.watch(self._heads, self._caller) as watch:
            yield AccountFeed(watch, dict(self._positions))


class AccountFeed:
    def __init__(self, watch: AccountWatch, positions: dict[str, int]) -> None:
        self._watch = watch
        self._positions = positions
        self._is_begun = False

    async def next(self, timeout_seconds: float) -> EventChunk | None:
        if not self._is_begun:
            self._is_begun = True
            return EventChunk(ready_event(self._positions))
        payload = await self._watch.next(self._positions, timeout_seconds)
        return None if payload is None else EventChunk(payload)
