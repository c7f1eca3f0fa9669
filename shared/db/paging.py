"""Keyset paging: correct under concurrent inserts and for every sort key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, LiteralString, Protocol, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """`sort` is a column that the repository lists as sortable. `after` is (value of the sort column, id) of the
    previous page's last row, or None for the first page. `limit` is 1 to 100."""

    sort: str = "created_at"
    is_descending: bool = True
    limit: int = 20
    after: tuple[object, str] | None = None
    with_total: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """`position` is `after` of the next PageRequest, or None on the last page."""

    items: Sequence[T]
    position: tuple[object, str] | None
    total: int | None = None

    def map(self, function: Callable[[T], U]) -> Page[U]:
        return Page([function(item) for item in self.items], self.position, self.total)


def keyset_clause(
    request: PageRequest, *, column: LiteralString, id_column: LiteralString
) -> tuple[LiteralString, LiteralString, dict[str, object]]:
    """Returns the SQL condition, the ORDER BY … LIMIT, and their parameters. Fetches one extra row, which shows
    whether there is a next page. `column` and `id_column` are constants of the repository, never input."""
    direction: LiteralString = "DESC" if request.is_descending else "ASC"
    order: LiteralString = f"ORDER BY {column} {direction}, {id_column} {direction} LIMIT %(page_limit)s"
    parameters: dict[str, object] = {"page_limit": request.limit + 1}
    if request.after is None:
        return "TRUE", order, parameters
    comparison: LiteralString = "<" if request.is_descending else ">"
    parameters |= {"page_value": request.after[0], "page_id": request.after[1]}
    return f"({column}, {id_column}) {comparison} (%(page_value)s, %(page_id)s)", order, parameters


class Identified(Protocol):
    @property
    def id(self) -> str: ...


IdentifiedRow = TypeVar("IdentifiedRow", bound=Identified)


def page_of(rows: Sequence[IdentifiedRow], request: PageRequest, total: int | None = None) -> Page[IdentifiedRow]:
    """Removes the extra row. The rows must have `id` and the sort column under its own name."""
    items = rows[: request.limit]
    if len(rows) <= request.limit or not items:
        return Page(items, None, total)
    last = items[-1]
    return Page(items, (getattr(last, request.sort), last.id), total)
