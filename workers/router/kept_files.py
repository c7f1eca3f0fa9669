"""Small files that a router keeps between its processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

_log: Any = structlog.get_logger(__name__)

T = TypeVar("T")


def read_kept(path: Path, type_: type[T]) -> T | None:
    """None if the file is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except (OSError, msgspec.DecodeError):
        return None


def write_kept(path: Path, content: object) -> None:
    """Replaces the file. On a full disk it stays as it was: only the next process would want to know more."""
    partial_file = path.with_suffix(".partial")
    try:
        partial_file.write_bytes(msgspec.json.encode(content))
        partial_file.replace(path)
    except OSError as error:
        _log.warning("router.file_not_written", file=path.name, error=str(error))
