"""The table that is printed."""

from __future__ import annotations

from collections.abc import Sequence

from tests.corpus.deployments import Result
from tests.corpus.table import Row

_HEAD = (
    "repository", "kind", "detection", "result", "time", "install", "build", "2nd", "install", "build", "links",
    "broken", "verdict",
)  # fmt: skip
_WIDTHS = (46, 18, 18, 10, 6, 7, 6, 6, 7, 6, 5, 6, 0)


def head() -> str:
    return _join(_HEAD)


def line(row: Row, result: Result) -> str:
    first, second = result.seconds, result.second_seconds
    cells = (
        row.name.replace("+", "/"), row.kind, result.detection, result.status,
        *(f"{first[key]:.0f}" if key in first else "" for key in ("total", "install", "build")),
        *(f"{second[key]:.0f}" if key in second else result.second_status for key in ("total", "install", "build")),
        str(result.links), str(len(result.broken_assets) + len(result.broken_pages)),
        result.verdict(row) + (" (not counted)" if row.uncounted else ""),
    )  # fmt: skip
    return _join(cells)


def details(row: Row, result: Result) -> list[str]:
    """What is wrong, a line each; nothing for a live site."""
    said = [result.error[:600]] if result.error else []
    said += [f"second try: {result.retry}"] if result.retry and result.retry != "live" else []
    said += [f"second commit: {result.second_error[:300]}"] if result.second_error else []
    said += [f"warning: {warning}" for warning in result.warnings]
    said += [f"asset: {broken}" for broken in result.broken_assets[:8]]
    said += [f"page: {broken}" for broken in result.broken_pages[:8]]
    said += [f"without {', '.join(result.absent[:4])}: the mirror lacks it"] if result.absent else []
    return [f"    {text}" for text in said] if result.verdict(row) != "live" else []


def summary(rows: Sequence[Row], results: dict[str, Result]) -> str:
    counted = [row for row in rows if not row.uncounted and row.name in results]
    live = sum(results[row.name].verdict(row) == "live" for row in counted)
    others = [row for row in rows if row.uncounted and row.name in results]
    told = sum(results[row.name].verdict(row) in ("told", "live") for row in others)
    again = [results[row.name] for row in rows if row.name in results and results[row.name].second_seconds]
    quick = sum(r.second_seconds.get("install", 0) <= 0.3 * r.seconds.get("install", 0) for r in again)
    return (
        f"{live} of {len(counted)} counted are live ({100 * live / max(1, len(counted)):.0f} %);"
        f" {told} of {len(others)} others are live or say what to do;"
        f" {quick} of {len(again)} second commits installed in at most 30 % of the first's time."
    )


def _join(cells: Sequence[str]) -> str:
    return " ".join(f"{cell[:width] if width else cell:<{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))
