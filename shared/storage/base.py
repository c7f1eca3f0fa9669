"""The interface of the object store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol


class ObjectNotFound(Exception):
    """No object has this key."""


class ArtifactSource(Protocol):
    """The part of an ArtifactStore that readers of artifacts need."""

    def get_file(self, key: str, path: Path) -> None:
        """Writes the object to `path`, completely or not at all. Raises ObjectNotFound."""
        ...

    def get_bytes(self, key: str) -> bytes:
        """Raises ObjectNotFound."""
        ...

    def delete(self, key: str) -> None:
        """Does nothing if the object doesn't exist."""
        ...


class ArtifactStore(ArtifactSource, Protocol):
    """Keys are `/`-separated paths. Safe from any thread. Every method may be repeated.

    Every method retries for seconds during an outage, then raises PlatformError; the queue retries for minutes.
    """

    def put_file(self, key: str, path: Path) -> None: ...

    def put_bytes(self, key: str, data: bytes) -> None: ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """`length` bytes (1 or more) from `offset`; fewer or none if the object ends earlier.

        Raises ObjectNotFound, and ValueError for an invalid range.
        """
        ...

    def exists(self, key: str) -> bool: ...

    def link(self, key: str, seconds: int) -> str:
        """An address that gives the object to anybody for `seconds`, whether or not it exists yet."""
        ...

    def upload_form(self, key: str, maximum_bytes: int, seconds: int) -> tuple[str, Mapping[str, str]]:
        """URL and fields of a form (`multipart/form-data`, the file last) by which anybody can write the object.

        Its signature binds the key, and a size of at most `maximum_bytes`; valid for `seconds`.
        """
        ...

    def list(self, prefix: str) -> Iterator[str]: ...

    def delete_older(self, prefix: str, seconds: float) -> Sequence[str]:
        """Deletes the objects below `prefix` that were written at least `seconds` ago. Returns their keys.

        Their age is by the store's own clock; it writes an object below `prefix` to read that, and deletes it.
        """
        ...

    def abort_uploads_older(self, seconds: float) -> Sequence[str]:
        """Aborts uploads in parts, of any key, that began at least `seconds` ago by the store's own clock and were not
        completed. Returns their keys, 1000 at most: the next call continues. A completed object isn't touched.
        """
        ...

    def ping(self) -> None:
        """Raises PlatformError unless the store answers. Creates a missing bucket."""
        ...
