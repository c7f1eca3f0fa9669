"""A deployment's log: pages of it, and the live stream."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import Controller, get
from litestar.concurrency import sync_to_thread
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter
from litestar.response import Response

from api.connections import UserRequest
from api.edge.callers import user_caller
from api.resources import DEPLOYMENT
from api.responses import EnvelopeResponse
from api.streams.log_hub import LogHub
from api.streams.log_source import LogSource
from api.streams.sse import EventStream
from api.streams.stream_lease import StreamLeases, StreamRight
from schemas.deployments import LogLineResource
from schemas.envelope import Meta, Pagination, Success
from schemas.logs import LogLine, LogTruncated
from shared.accounts.permissions import Permission
from shared.deployments.state import Stage
from shared.errors import CloudifyError, ErrorCode
from shared.logs.base import NumberedEntry
from shared.logs.store import LogPage, PostgresLogStore

MAXIMUM_LIMIT = 1000
# bigint, as PostgreSQL keeps it.
_GREATEST_NUMBER = 2**63 - 1
_TRUNCATED_TEXT = "The log has reached its size limit; later output is not stored."

_READ = {"permission": Permission.DEPLOY_READ, "resource": DEPLOYMENT, "errors": (ErrorCode.INVALID_CURSOR,)}
_STREAM = {**_READ, "stream": True}

Direction = Literal["forward", "backward"]
After = Annotated[str | None, QueryParameter(description="A number in the log; later entries are sent")]
Tail = Annotated[int | None, QueryParameter(ge=1, le=100_000, description="The most entries from the end")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAXIMUM_LIMIT, description="Lines a page")]
StageFilter = Annotated[Stage | None, QueryParameter(description="Only this stage's lines")]
DirectionFilter = Annotated[
    Direction, QueryParameter(description="backward: the lines before `after`, newest first; without it the last ones")
]


class LogController(Controller):
    path = "/deployments/{deployment_id:str}/logs"
    tags = ("logs",)

    @get(opt={**_READ, "threads": "logs"}, sync_to_thread=True, summary="Lines of a deployment's log")
    def page(
        self,
        request: UserRequest,
        deployment_id: FromPath[str],
        log_store: NamedDependency[PostgresLogStore],
        after: After = None,
        limit: Limit = 100,
        stage: StageFilter = None,
        direction: DirectionFilter = "forward",
    ) -> Response[object]:
        """JSON, or plain text when `Accept` asks for it. `meta.pagination.cursor` is the next page's `after`."""
        position = None if after is None else parse_position(after)
        lines = log_store.read_lines(
            deployment_id, after=position, limit=limit, stage=stage, is_backward=direction == "backward"
        )
        if _prefers_text(request):
            return _text_response(lines, is_backward=direction == "backward")
        return _json_response(lines)

    @get("/stream", opt=_STREAM, summary="A deployment's log as it is written", media_type="text/event-stream")
    async def stream(
        self,
        request: UserRequest,
        deployment_id: FromPath[str],
        log_store: NamedDependency[PostgresLogStore],
        log_hub: NamedDependency[LogHub],
        stream_leases: NamedDependency[StreamLeases],
        after: After = None,
        tail: Tail = None,
    ) -> Response[object]:
        """Server-sent events after `Last-Event-ID`, else `after`, else from the beginning. 204 at its end."""
        last_event_id = request.headers.get("last-event-id") or None
        position = parse_position(last_event_id or after or "0")
        head = await sync_to_thread(log_store.head, deployment_id)
        if position > head.last_seq:
            raise invalid_position("The log has no entry with this number yet; begin again without a position.")
        if tail is not None and last_event_id is None:
            position = max(position, head.last_seq - tail)
        if head.is_closed and position >= head.last_seq:
            return Response[object](content=None, status_code=204)
        right = StreamRight(request.user, frozenset([request.state.tenant_id]), deployment_id)
        source = LogSource(log_hub, deployment_id, position, user_caller(request.user.user_id))
        return EventStream(source, log_hub.timing, stream_leases.acquire(right))


def parse_position(text: str) -> int:
    """A number in the log, 0 for its beginning. Raises CloudifyError (INVALID_CURSOR)."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= _GREATEST_NUMBER):
        raise invalid_position("A position in the log is a whole number from 0, such as an event's id.")
    return int(text)


def invalid_position(message: str) -> CloudifyError:
    return CloudifyError(message, code=ErrorCode.INVALID_CURSOR)


def _prefers_text(request: UserRequest) -> bool:
    return request.accept.best_match(["application/json", "text/plain"]) == "text/plain"


def _json_response(page: LogPage) -> Response[object]:
    # The last page has a position, too: later lines of a live log follow it.
    pagination = Pagination(has_more=page.has_more, cursor=str(page.position))
    lines = [_resource(numbered) for numbered in page.entries]
    return EnvelopeResponse[object](
        Success(data=lines, meta=Meta(pagination=pagination)),
        media_type="application/json",
        headers={"Vary": "Accept"},
    )


def _text_response(page: LogPage, *, is_backward: bool) -> Response[object]:
    parts: list[str] = []
    for numbered in page.entries:
        # The parts of a line that was split for its length are joined if they come in order.
        is_continued = isinstance(numbered.entry, LogLine) and numbered.entry.continued and not is_backward
        parts += (_resource(numbered).text, "" if is_continued else "\n")
    headers = {"Vary": "Accept", "X-Next-Cursor": str(page.position), "X-Has-More": str(page.has_more).lower()}
    return Response[object]("".join(parts).encode(), media_type="text/plain", headers=headers)


def _resource(numbered: NumberedEntry) -> LogLineResource:
    entry = numbered.entry
    if isinstance(entry, LogLine):
        return LogLineResource(
            seq=numbered.seq,
            ts=entry.timestamp,
            stage=entry.stage,
            stream=entry.stream,
            text=entry.text,
            continued=entry.continued,
        )
    assert isinstance(entry, LogTruncated)
    return LogLineResource(seq=numbered.seq, ts=entry.timestamp, stage="", stream="system", text=_TRUNCATED_TEXT)
