"""Permits streams: each open stream holds a slot of its user, and its right is checked every few seconds, for all
streams of the process at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.to_thread
import structlog

from api.authentication import Principal
from shared.accounts.permissions import ROLES_WITH, Permission
from shared.accounts.stream_rights import StreamRights, StreamRightsRepository
from shared.clock import Clock
from shared.errors import Unavailable
from shared.logs.stream_slots import RedisStreamSlots

_log = structlog.get_logger("streams")


@dataclass(frozen=True, slots=True)
class StreamRight:
    """The condition of a stream: its principal may read in all of `tenant_ids`, and `deployment_id`, if it follows one,
    exists and belongs to one of them."""

    principal: Principal
    tenant_ids: frozenset[str]
    deployment_id: str | None = None

    def holds(self, now: StreamRights) -> bool:
        principal = self.principal
        if principal.token_id is not None:
            is_live = principal.token_id in now.tokens
        else:
            is_live = principal.session_id in now.sessions
        if not is_live or not principal.has_scope(Permission.DEPLOY_READ):
            return False
        if self.deployment_id is not None and now.deployments.get(self.deployment_id) not in self.tenant_ids:
            return False
        roles = now.roles.get(principal.user_id, {})
        return all(roles.get(tenant_id) in ROLES_WITH[Permission.DEPLOY_READ] for tenant_id in self.tenant_ids)


class StreamLease:
    """Permission for one open stream. Used on the event loop."""

    def __init__(self, right: StreamRight) -> None:
        self.right = right
        self._is_revoked = False
        self._call: Callable[[], None] | None = None

    def on_revoked(self, call: Callable[[], None]) -> None:
        """Calls `call` once, on the event loop, when the right is lost: at once if it is lost already."""
        self._call = call
        if self._is_revoked:
            call()

    def revoke(self) -> None:
        if not self._is_revoked:
            self._is_revoked = True
            if self._call is not None:
                self._call()


class StreamLeases:
    """Belongs to one event loop, the one that `running` is entered on."""

    def __init__(
        self, *, rights: StreamRightsRepository, slots: RedisStreamSlots, clock: Clock, check_seconds: float = 5.0
    ) -> None:
        self._rights = rights
        self._slots = slots
        self._clock = clock
        self._check_seconds = check_seconds
        self._leases: set[StreamLease] = set()
        # Checks that were made, and checks that the database didn't answer.
        self.rounds = 0
        self.failed_rounds = 0
        self._limiter: anyio.CapacityLimiter | None = None

    @property
    def open_count(self) -> int:
        return len(self._leases)

    @asynccontextmanager
    async def acquire(self, right: StreamRight) -> AsyncGenerator[StreamLease]:
        """A lease for the length of the block, which must begin after the right was checked for the request.

        Raises StreamLimitReached.
        """
        async with self._slots.hold(right.principal.user_id):
            lease = StreamLease(right)
            self._leases.add(lease)
            try:
                yield lease
            finally:
                self._leases.discard(lease)

    @asynccontextmanager
    async def running(self, _application: object = None) -> AsyncGenerator[None]:
        # A thread of its own: the check doesn't wait for requests that wait for a database.
        self._limiter = anyio.CapacityLimiter(1)
        async with self._slots.running():
            task = asyncio.create_task(self._check_forever())
            try:
                yield
            finally:
                task.cancel()
                await asyncio.wait([task])

    async def check(self) -> None:
        """Ends the streams whose right is lost. While the database is unavailable they continue."""
        leases = list(self._leases)
        if not leases:
            return
        principals = [lease.right.principal for lease in leases]
        deployments = [lease.right.deployment_id for lease in leases]
        read = partial(
            self._rights.read,
            token_ids={principal.token_id for principal in principals if principal.token_id is not None},
            session_ids={principal.session_id for principal in principals if principal.session_id is not None},
            user_ids={principal.user_id for principal in principals},
            deployment_ids={deployment for deployment in deployments if deployment is not None},
            now=self._clock.now(),
        )
        try:
            rights = await anyio.to_thread.run_sync(read, limiter=self._limiter, abandon_on_cancel=True)
        except Unavailable:
            self.failed_rounds += 1
            return
        for lease in leases:
            if not lease.right.holds(rights):
                lease.revoke()
        self.rounds += 1

    async def _check_forever(self) -> None:
        while True:
            await asyncio.sleep(self._check_seconds)
            try:
                await self.check()
            except Exception:  # noqa: BLE001 - the check must outlive any failure of one round
                _log.exception("stream_rights_check_failed")
