"""The table of repositories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

_FILE = Path(__file__).with_name("repositories.toml")


class Row(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A repository and what is expected of it.

    `text`: part of the first page. `source`: the file that the second commit changes. `uncounted`: why the row isn't
    part of the rate; the message of its failure, which must have all of `message`, is judged instead. `broken`: links
    that are broken wherever the site is deployed, with the reason. `also`: paths of files that the site's scripts load.
    `retry`: settings of the second try that the message of the first suggests. `differences`: why `<oracle> <fact>` of
    another program's detection isn't ours.
    """

    repository: str
    commit: str
    kind: str
    text: str
    source: str
    uncounted: str = ""
    message: tuple[str, ...] = ()
    broken: dict[str, str] = {}
    also: tuple[str, ...] = ()
    retry: dict[str, Any] = {}
    differences: dict[str, str] = {}

    @property
    def name(self) -> str:
        """`OWNER+NAME`."""
        return "+".join(self.repository.rstrip("/").removesuffix(".git").split("/")[-2:])


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    row: tuple[Row, ...]


def read_table() -> tuple[Row, ...]:
    return msgspec.toml.decode(_FILE.read_bytes(), type=_Table).row


def choose(rows: tuple[Row, ...], names: str) -> tuple[Row, ...]:
    """Those named in a list with commas, in its order, each as `OWNER+NAME`, `OWNER/NAME` or `NAME`; all for an empty
    list. Raises SystemExit for a name that no row has."""
    wanted = [name.strip().replace("/", "+").lower() for name in names.split(",") if name.strip()]
    chosen = [[row for row in rows if name in _names(row)] for name in wanted]
    unknown = [name for name, found in zip(wanted, chosen, strict=True) if not found]
    if unknown:
        raise SystemExit(f"The table has no row {', '.join(unknown)}.")
    return tuple(row for found in chosen for row in found) or rows


def _names(row: Row) -> set[str]:
    return {row.name.lower(), row.name.partition("+")[2].lower()}
