"""The interface of the object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class ObjectNotFound(Exception):
    """No object has this key."""


class ArtifactStore(Protocol):
    """Keys are `/`-separated paths. Safe from any thread. Every method may be repeated.

    Every method retries for seconds during an outage, then raises PlatformError; the queue retries for minutes.
    """

    def put_file(self, key: str, path: Path) -> None: ...

    def put_bytes(self, key: str, data: bytes) -> None: ...

    def get_file(self, key: str, path: Path) -> None:
        """Writes the object to `path`, completely or not at all. Raises ObjectNotFound."""
        ...

    def get_bytes(self, key: str) -> bytes:
        """Raises ObjectNotFound."""
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """`length` bytes (1 or more) from `offset`; fewer or none if the object ends earlier.

        Raises ObjectNotFound, and ValueError for an invalid range.
        """
        ...

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Does nothing if the object doesn't exist."""
        ...

    def list(self, prefix: str) -> Iterator[str]: ...

    def ping(self) -> None:
        """Raises PlatformError unless the store answers. Creates a missing bucket."""
        ...
