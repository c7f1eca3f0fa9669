"""Cursors: opaque, signed and valid only for the list, sort, filters and user that they were made for."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from litestar.params import QueryParameter

from api.connections import UserRequest
from api.errors import RequestRefused
from api.responses import paginated
from schemas.envelope import Success
from shared.accounts.access_tokens import derive_key
from shared.db.paging import Page, PageRequest
from shared.errors import ErrorCode

T = TypeVar("T")

_SIGNATURE_BYTES = 16
MAXIMUM_LIMIT = 100


class CursorSigner:
    """Safe from any thread."""

    def __init__(self, secret: bytes) -> None:
        self._key = derive_key(secret, "page cursor")

    def encode(self, position: tuple[object, str], binding: bytes) -> str:
        """`position` is (datetime or text, id)."""
        value, identifier = position
        # A datetime is written with microseconds, PostgreSQL's precision.
        kind, text = ("t", value.isoformat()) if isinstance(value, datetime) else ("s", str(value))
        payload = msgspec.json.encode([kind, text, identifier])
        return base64.urlsafe_b64encode(self._sign(payload, binding) + payload).rstrip(b"=").decode()

    def decode(self, cursor: str, binding: bytes) -> tuple[object, str]:
        """Raises RequestRefused (INVALID_CURSOR)."""
        try:
            data = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
            signature, payload = data[:_SIGNATURE_BYTES], data[_SIGNATURE_BYTES:]
            if not hmac.compare_digest(signature, self._sign(payload, binding)):
                raise ValueError("signature")
            kind, text, identifier = msgspec.json.decode(payload, type=tuple[str, str, str])
            return (datetime.fromisoformat(text) if kind == "t" else text), identifier
        except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
            raise RequestRefused(
                "The cursor doesn't belong to this list, sort and filter; start again without one.",
                code=ErrorCode.INVALID_CURSOR,
            ) from error

    def _sign(self, payload: bytes, binding: bytes) -> bytes:
        message = len(payload).to_bytes(4, "big") + payload + binding
        return hmac.digest(self._key, message, hashlib.sha256)[:_SIGNATURE_BYTES]


@dataclass(frozen=True, slots=True)
class ListQuery:
    """One list request, once its sort and filters are known."""

    page: PageRequest
    signer: CursorSigner
    binding: bytes

    def answer(self, page: Page[T]) -> Success[list[T]]:
        cursor = None if page.position is None else self.signer.encode(page.position, self.binding)
        return paginated(list(page.items), cursor=cursor, total=page.total)


@dataclass(frozen=True, slots=True)
class ListParameters:
    """The query parameters of every list."""

    signer: CursorSigner
    scope: str
    cursor: str | None
    limit: int
    sort: str | None
    total: bool

    def with_filters(self, filters: Mapping[str, object], *, sortable: Mapping[str, str], default: str) -> ListQuery:
        """`sortable`: name in the query → column. Raises RequestRefused (INVALID_SORT, INVALID_CURSOR)."""
        sort = default if self.sort is None else self.sort
        column = sortable.get(sort.removeprefix("-"))
        if column is None:
            names = ", ".join(f"{name}, -{name}" for name in sortable)
            raise RequestRefused(
                f"The list can't be sorted by {sort[:50]!r}; choose {names}.", code=ErrorCode.INVALID_SORT
            )
        binding = msgspec.json.encode([self.scope, sort, sorted((name, str(value)) for name, value in filters.items())])
        after = None if self.cursor is None else self.signer.decode(self.cursor, binding)
        page = PageRequest(
            sort=column, is_descending=sort.startswith("-"), limit=self.limit, after=after, with_total=self.total
        )
        return ListQuery(page, self.signer, binding)


def provide_list_parameters(
    request: UserRequest,
    cursor: Annotated[str | None, QueryParameter(description="`meta.pagination.cursor` of the previous page")] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=MAXIMUM_LIMIT, description="Items a page")] = 20,
    sort: Annotated[str | None, QueryParameter(description="A field's name, with - before it for descending")] = None,
    total: Annotated[bool, QueryParameter(description="Whether to count all items")] = False,
) -> ListParameters:
    """The dependency `list_parameters`."""
    signer: CursorSigner = request.app.state.services.cursor_signer
    return ListParameters(signer, f"{request.user.user_id} {request.url.path}", cursor, limit, sort, total)


def comma_separated(value: str | None) -> list[str]:
    return [] if value is None else list(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
