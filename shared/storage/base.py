"""The seam to the object store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class ObjectNotFound(Exception):
    """No object has this key."""


class ArtifactStore(Protocol):
    """Keys are `/`-separated paths. Safe from any thread; every method may be repeated.

    Short outages are retried inside for seconds; after that PlatformError is raised and the queue retries for minutes.
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
        """`length` bytes (1 or more) from `offset`; fewer, or none, where the object ends before.

        Raises ObjectNotFound, and ValueError for a range that can't be.
        """
        ...

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """No error when there is no such object."""
        ...

    def list(self, prefix: str) -> Iterator[str]: ...

    def ping(self) -> None:
        """Raises PlatformError unless the store answers; makes the bucket where there is none."""
        ...
