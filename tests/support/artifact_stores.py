"""Object stores for tests: one in memory, and one that calls the test before and after every operation."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from minio import Minio

from shared.errors import PlatformError
from shared.settings import ObjectStoreSettings
from shared.storage.base import ArtifactStore, ObjectNotFound

T = TypeVar("T")


class MemoryArtifactStore:
    """An ArtifactStore without a server; it passes the contract of the real one."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self._written_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def put_file(self, key: str, path: Path) -> None:
        self.put_bytes(key, path.read_bytes())

    def put_bytes(self, key: str, data: bytes) -> None:
        with self._lock:
            self.objects[key] = bytes(data)
            self._written_at[key] = time.monotonic()

    def get_file(self, key: str, path: Path) -> None:
        path.write_bytes(self.get_bytes(key))

    def get_bytes(self, key: str) -> bytes:
        with self._lock:
            if key not in self.objects:
                raise ObjectNotFound(key)
            return self.objects[key]

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 1:
            raise ValueError(f"no object has {length} bytes at {offset}")
        return self.get_bytes(key)[offset : offset + length]

    def exists(self, key: str) -> bool:
        with self._lock:
            return key in self.objects

    def delete(self, key: str) -> None:
        with self._lock:
            self.objects.pop(key, None)

    def link(self, key: str, seconds: int) -> str:
        return f"memory:{key}"

    def upload_form(self, key: str, maximum_bytes: int, seconds: int) -> tuple[str, Mapping[str, str]]:
        return "memory:", {"key": key}

    def list(self, prefix: str) -> Iterator[str]:
        with self._lock:
            return iter([key for key in self.objects if key.startswith(prefix)])

    def delete_older(self, prefix: str, seconds: float) -> Sequence[str]:
        latest = time.monotonic() - seconds
        keys = [key for key in self.list(prefix) if self._written_at[key] <= latest]
        for key in keys:
            self.delete(key)
        return keys

    def abort_uploads_older(self, seconds: float) -> Sequence[str]:
        """Nothing is uploaded in parts."""
        return []

    def ping(self) -> None:
        """Always there."""


class ObservedArtifactStore:
    """Calls `observe("before put_file")`, `observe("after put_file")`, …: what that raises ends the operation.

    Counts the operations by name; while `is_away` every one of them fails as an outage does.
    """

    def __init__(self, store: ArtifactStore, observe: Callable[[str], None] | None = None) -> None:
        self._store = store
        self.observe: Callable[[str], None] = observe or (lambda _step: None)
        self.is_away = False
        self.calls: list[str] = []

    def put_file(self, key: str, path: Path) -> None:
        self._around("put_file", lambda: self._store.put_file(key, path))

    def put_bytes(self, key: str, data: bytes) -> None:
        self._around("put_bytes", lambda: self._store.put_bytes(key, data))

    def get_file(self, key: str, path: Path) -> None:
        self._around("get_file", lambda: self._store.get_file(key, path))

    def get_bytes(self, key: str) -> bytes:
        return self._around("get_bytes", lambda: self._store.get_bytes(key))

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._around("get_range", lambda: self._store.get_range(key, offset, length))

    def exists(self, key: str) -> bool:
        return self._around("exists", lambda: self._store.exists(key))

    def delete(self, key: str) -> None:
        self._around("delete", lambda: self._store.delete(key))

    def link(self, key: str, seconds: int) -> str:
        return self._store.link(key, seconds)

    def upload_form(self, key: str, maximum_bytes: int, seconds: int) -> tuple[str, Mapping[str, str]]:
        return self._store.upload_form(key, maximum_bytes, seconds)

    def list(self, prefix: str) -> Iterator[str]:
        return self._around("list", lambda: self._store.list(prefix))

    def delete_older(self, prefix: str, seconds: float) -> Sequence[str]:
        return self._around("delete_older", lambda: self._store.delete_older(prefix, seconds))

    def abort_uploads_older(self, seconds: float) -> Sequence[str]:
        return self._around("abort_uploads_older", lambda: self._store.abort_uploads_older(seconds))

    def ping(self) -> None:
        self._around("ping", self._store.ping)

    def _around(self, name: str, call: Callable[[], T]) -> T:
        self.calls.append(name)
        self.observe(f"before {name}")
        if self.is_away:
            raise PlatformError("The object store does not answer.")
        result = call()
        self.observe(f"after {name}")
        return result


def start_upload(settings: ObjectStoreSettings, key: str) -> str:
    """Begins an upload in parts, of which one is stored, and leaves it. Returns its id."""
    client = _client(settings)
    upload = client._create_multipart_upload(settings.bucket, key, {})  # pyright: ignore[reportPrivateUsage]
    client._upload_part(settings.bucket, key, b"part", None, upload, 1)  # pyright: ignore[reportPrivateUsage]
    return upload


def uploads(settings: ObjectStoreSettings) -> list[str]:
    """The keys of uploads that are neither completed nor aborted."""
    found = _client(settings)._list_multipart_uploads(settings.bucket)  # pyright: ignore[reportPrivateUsage]
    return [upload.object_name for upload in found.uploads]


def _client(settings: ObjectStoreSettings) -> Minio:
    address = settings.endpoint.removeprefix("http://")
    return Minio(address, settings.access_key, settings.secret_key, secure=False, region=settings.region)
