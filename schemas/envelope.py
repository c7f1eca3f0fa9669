"""The one shape of every response."""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import msgspec

T = TypeVar("T")


class Pagination(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    has_more: bool
    cursor: str | None = None
    total: int | None = None


class Timing(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    duration_ms: float


class RateLimit(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    limit: int
    remaining: int
    reset_at: str


class Meta(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    pagination: Pagination | None = None
    timing: Timing | None = None
    rate_limit: RateLimit | None = None


class Success(msgspec.Struct, Generic[T], kw_only=True):
    data: T
    ok: Literal[True] = True
    meta: Meta = msgspec.field(default_factory=Meta)


class ErrorBody(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    code: str
    message: str
    request_id: str
    details: dict[str, Any] | None = None


class Failure(msgspec.Struct, kw_only=True):
    error: ErrorBody
    ok: Literal[False] = False
