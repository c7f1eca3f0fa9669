"""Small files that a router keeps between its processes."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

T = TypeVar("T")


def read_kept(path: Path, type_: type[T]) -> T | None:
    """None if the file is missing or damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except (OSError, msgspec.DecodeError):
        return None


def write_kept(path: Path, content: object) -> None:
    """Replaces the file. Raises OSError."""
    partial_file = path.with_suffix(".partial")
    partial_file.write_bytes(msgspec.json.encode(content))
    partial_file.replace(path)
