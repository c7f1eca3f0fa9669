"""The status changes of all deployments that the caller may see, live."""

from __future__ import annotations

from typing import Annotated

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from litestar.response import Response

from api.connections import UserRequest
from api.edge.callers import user_caller
from api.streams.account_cursor import decode_cursor, invalid_cursor
from api.streams.account_hub import AccountHub
from api.streams.account_source import AccountSource, AccountStreamRight
from api.streams.sse import EventStream
from api.streams.stream_lease import StreamLeases
from shared.accounts.permissions import Permission
from shared.errors import ErrorCode

_STREAM = {
    "permission": Permission.DEPLOY_READ,
    "resource": "tenants",
    "stream": True,
    "errors": (ErrorCode.INVALID_CURSOR,),
}

After = Annotated[str | None, QueryParameter(description="The id of an event of this stream; later events are sent")]


class EventController(Controller):
    path = "/events"
    tags = ("logs",)

    @get("/stream", opt=_STREAM, summary="Status changes of all deployments", media_type="text/event-stream")
    async def stream(
        self,
        request: UserRequest,
        account_hub: NamedDependency[AccountHub],
        stream_leases: NamedDependency[StreamLeases],
        after: After = None,
    ) -> Response[object]:
        """Server-sent events after `Last-Event-ID`, else `after`, else from now on. The first one is `ready`."""
        tenant_ids: list[str] = request.state.tenant_ids
        heads = await account_hub.heads(tenant_ids)
        # Tenants that aren't in the position, such as teams joined since, begin now.
        positions = dict(heads)
        if position := request.headers.get("last-event-id") or after:
            positions |= decode_cursor(position, tenant_ids)
        if any(positions[tenant_id] > heads[tenant_id] for tenant_id in tenant_ids):
            raise invalid_cursor()
        right = AccountStreamRight(request.user, frozenset(tenant_ids))
        source = AccountSource(account_hub, positions, heads, user_caller(request.user.user_id))
        return EventStream(source, account_hub.timing, stream_leases.acquire(right))
