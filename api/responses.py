"""Responses in the envelope."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypedDict, TypeVar, Unpack

from litestar import Litestar, Response
from litestar.background_tasks import BackgroundTask, BackgroundTasks
from litestar.datastructures import Cookie
from litestar.enums import MediaType
from litestar.response.base import ASGIResponse
from litestar.types import TypeEncodersMap

from api.connections import UserRequest
from api.middleware import elapsed_ms
from schemas.envelope import Meta, Pagination, Success, Timing

T = TypeVar("T")


class AsgiOptions(TypedDict, total=False):
    """The options of litestar's Response.to_asgi_response."""

    background: BackgroundTask | BackgroundTasks | None
    cookies: Iterable[Cookie] | None
    encoded_headers: Iterable[tuple[bytes, bytes]] | None
    headers: dict[str, str] | None
    is_head_response: bool
    media_type: MediaType | str | None
    status_code: int | None
    type_encoders: TypeEncodersMap | None


class EnvelopeResponse(Response[T], Generic[T]):
    """Writes `meta.timing` at the last moment."""

    def to_asgi_response(
        self, app: Litestar | None, request: UserRequest, **options: Unpack[AsgiOptions]
    ) -> ASGIResponse:
        if isinstance(self.content, Success):
            self.content.meta.timing = Timing(duration_ms=elapsed_ms())
        return super().to_asgi_response(app, request, **options)


def answer(
    data: T, *, status: int = 200, location: str | None = None, cookies: list[Cookie] | None = None
) -> Response[Success[T]]:
    headers = {} if location is None else {"Location": location}
    return EnvelopeResponse(
        Success(data=data),
        status_code=status,
        headers=headers,
        cookies=cookies or [],
        media_type="application/json",
    )


def success(data: T) -> Success[T]:
    return Success(data=data)


def paginated(items: list[T], *, cursor: str | None, total: int | None) -> Success[list[T]]:
    pagination = Pagination(has_more=cursor is not None, cursor=cursor, total=total)
    return Success(data=items, meta=Meta(pagination=pagination))
