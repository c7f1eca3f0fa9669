"""Answers in the envelope."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from litestar import Response
from litestar.datastructures import Cookie

from api.middleware import elapsed_ms
from schemas.envelope import Meta, Pagination, Success, Timing

T = TypeVar("T")


class EnvelopeResponse(Response[T], Generic[T]):
    """Writes `meta.timing` at the last moment."""

    def to_asgi_response(self, app: Any, request: Any, **options: Any) -> Any:
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
