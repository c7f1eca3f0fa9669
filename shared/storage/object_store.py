"""An ArtifactStore on any S3-compatible server, through the `minio` client."""

from __future__ import annotations

import io
import os
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from shared.errors import PlatformError
from shared.metrics import timed_object_request
from shared.settings import ObjectStoreSettings
from shared.storage.base import ObjectNotFound

if TYPE_CHECKING:
    from minio import Minio
    from urllib3 import BaseHTTPResponse

T = TypeVar("T")

_ABSENT = frozenset({"NoSuchKey", "NoSuchObject", "NotFound", "ResourceNotFound"})
# Other errors of the server are permanent: no credentials, no such bucket, a malformed request.
_TRANSIENT = frozenset(
    {"InternalError", "SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "RequestTimeout",
     "OperationAborted", "BadGateway", "XMinioServerNotInitialized"}
)  # fmt: skip
_CHUNK = 1 << 20
# The client holds a part in memory, so parts are small (S3 allows 5 MiB and more) and go one after the other.
_PART_BYTES = 8 << 20
# What is left waits for the next call.
_UPLOADS_AT_ONCE = 1000
# Staged objects are swept, also one that a process left that died here.
_CLOCK_PREFIX = "staging/"


class S3ArtifactStore:
    """Safe from any thread. Connects on first use. Every call retries for up to `retry_seconds` during an outage."""

    def __init__(
        self,
        settings: ObjectStoreSettings,
        *,
        retry_seconds: float = 8.0,
        timeout_seconds: float = 20.0,
        connections: int = 8,
        ca_bundle: Path | None = None,
    ) -> None:
        """`ca_bundle`: PEM, certificates that are trusted in addition to the host's (CLOUDIFY_CA_BUNDLE)."""
        self._settings = settings
        self._ca_bundle = ca_bundle
        self._retry_seconds = retry_seconds
        self._timeout_seconds = timeout_seconds
        self._connections = connections
        self._lock = threading.Lock()
        self._made: Minio | None = None
        self._linking: Minio | None = None
        self._has_bucket = False

    def put_file(self, key: str, path: Path) -> None:
        def put(client: Minio) -> None:
            with path.open("rb") as file:
                length = os.fstat(file.fileno()).st_size
                client.put_object(
                    self._settings.bucket, key, file, length, part_size=_PART_BYTES, num_parallel_uploads=1
                )

        self._attempt("put", f"write {key}", put)

    def put_bytes(self, key: str, data: bytes) -> None:
        self._attempt(
            "put",
            f"write {key}",
            lambda client: client.put_object(self._settings.bucket, key, io.BytesIO(data), len(data)),
        )

    def get_file(self, key: str, path: Path) -> None:
        """Raises ObjectNotFound."""
        partial = path.with_name(f".{path.name}.{secrets.token_hex(6)}")

        def get(client: Minio) -> None:
            response = client.get_object(self._settings.bucket, key)
            try:
                expected, received = int(response.headers["Content-Length"]), 0
                with partial.open("wb") as file:
                    while data := response.read(_CHUNK):
                        received += len(data)
                        file.write(data)
            finally:
                response.close()
                response.release_conn()
            if received != expected:
                raise ConnectionError(f"got {received} of {expected} bytes")
            partial.replace(path)

        try:
            self._attempt("get", f"read {key}", get)
        finally:
            partial.unlink(missing_ok=True)

    def get_bytes(self, key: str) -> bytes:
        """Raises ObjectNotFound."""

        return self._attempt(
            "get", f"read {key}", lambda client: _whole_body(client.get_object(self._settings.bucket, key))
        )

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Raises ObjectNotFound."""
        if offset < 0 or length < 1:
            raise ValueError(f"no object has {length} bytes at {offset}")

        def get(client: Minio) -> bytes:
            from minio.error import S3Error

            try:
                response = client.get_object(self._settings.bucket, key, offset=offset, length=length)
            except S3Error as error:
                if error.code == "InvalidRange":
                    return b""
                raise
            data = _whole_body(response)
            # A server may send the whole object instead of the range.
            return data if response.status == 206 else data[offset : offset + length]

        return self._attempt("get", f"read {key}", get)

    def exists(self, key: str) -> bool:
        try:
            self._attempt("head", f"look for {key}", lambda client: client.stat_object(self._settings.bucket, key))
        except ObjectNotFound:
            return False
        return True

    def delete(self, key: str) -> None:
        try:
            self._attempt("delete", f"delete {key}", lambda client: client.remove_object(self._settings.bucket, key))
        except ObjectNotFound:
            return

    def link(self, key: str, seconds: int) -> str:
        """Signed for the address at which pods reach the store; nothing is sent."""
        client = self._linking_client()
        return client.presigned_get_object(self._settings.bucket, key, expires=timedelta(seconds=seconds))

    def upload_form(self, key: str, maximum_bytes: int, seconds: int) -> tuple[str, Mapping[str, str]]:
        """See `link`."""
        from minio.datatypes import PostPolicy

        settings = self._settings
        policy = PostPolicy(settings.bucket, datetime.now(UTC) + timedelta(seconds=seconds))
        policy.add_equals_condition("key", key)
        policy.add_content_length_range_condition(1, maximum_bytes)
        fields = self._linking_client().presigned_post_policy(policy)
        return f"{settings.link_endpoint or settings.endpoint}/{settings.bucket}", {"key": key, **fields}

    def list(self, prefix: str) -> Iterator[str]:
        """The keys that start with `prefix`, read page by page. An outage between pages restarts the listing."""

        def names(client: Minio) -> list[str]:
            found = client.list_objects(self._settings.bucket, prefix=prefix, recursive=True)
            return [item.object_name for item in found if item.object_name is not None]

        yield from self._attempt("list", f"list {prefix}", names)

    def delete_older(self, prefix: str, seconds: float) -> Sequence[str]:
        bucket, clock = self._settings.bucket, f"{prefix}clock-{secrets.token_hex(8)}"
        latest = self._read_clock(clock) - timedelta(seconds=seconds)

        def old(client: Minio) -> Sequence[str]:
            found = client.list_objects(bucket, prefix=prefix, recursive=True)
            return [
                item.object_name
                for item in found
                if item.object_name not in (None, clock) and item.last_modified and item.last_modified <= latest
            ]

        keys = self._attempt("list", f"list {prefix}", old)
        for key in (*keys, clock):
            self.delete(key)
        return keys

    def abort_uploads_older(self, seconds: float) -> Sequence[str]:
        clock = f"{_CLOCK_PREFIX}clock-{secrets.token_hex(8)}"
        try:
            latest = self._read_clock(clock) - timedelta(seconds=seconds)
        finally:
            self.delete(clock)
        uploads = self._attempt("list", "list its uploads", lambda client: self._uploads_until(client, latest))
        for key, upload in uploads:
            self._attempt("delete", f"abort an upload of {key}", partial(self._abort, key, upload))
        return [key for key, _ in uploads]

    def ping(self) -> None:
        """Raises PlatformError unless the store answers. Creates a missing bucket."""
        self._attempt("bucket", "find its bucket", self._make_bucket)

    def _read_clock(self, key: str) -> datetime:
        """The store's time, by an object that is written for this and left."""
        bucket = self._settings.bucket
        self.put_bytes(key, b"now")
        now = self._attempt("head", f"look for {key}", lambda client: client.stat_object(bucket, key).last_modified)
        assert now is not None, "S3 tells the time of every object"
        return now

    # The client has no public methods for uploads that it doesn't make itself.
    def _uploads_until(self, client: Minio, latest: datetime) -> Sequence[tuple[str, str]]:
        """Key and id of uploads that began until then, some at a time."""
        found: list[tuple[str, str]] = []
        marker: str | None = None
        while len(found) < _UPLOADS_AT_ONCE:
            page = client._list_multipart_uploads(self._settings.bucket, key_marker=marker)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            found += [
                (upload.object_name, upload.upload_id)
                for upload in page.uploads
                if upload.upload_id and upload.initiated_time and upload.initiated_time <= latest
            ]
            if not page.is_truncated or not page.next_key_marker or page.next_key_marker == marker:
                break
            marker = page.next_key_marker
        return found[:_UPLOADS_AT_ONCE]

    def _abort(self, key: str, upload: str, client: Minio) -> None:
        from minio.error import S3Error

        try:
            client._abort_multipart_upload(self._settings.bucket, key, upload)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        except S3Error as error:
            # Completed or aborted meanwhile.
            if error.code != "NoSuchUpload":
                raise

    def _linking_client(self) -> Minio:
        """Signs without sending anything, as the region is given."""
        from minio import Minio

        if self._linking is not None:
            return self._linking
        settings = self._settings
        endpoint = urlsplit(settings.link_endpoint or settings.endpoint)
        self._linking = Minio(
            endpoint=endpoint.netloc,
            access_key=settings.access_key,
            secret_key=settings.secret_key,
            secure=endpoint.scheme == "https",
            region=settings.region,
        )
        return self._linking

    def _client(self) -> Minio:
        # Imported on first use: a worker that never uses the store doesn't pay for the client's modules.
        with self._lock:
            if self._made is None:
                import urllib3
                from minio import Minio

                endpoint = urlsplit(self._settings.endpoint)
                trusted = ssl.create_default_context()
                if self._ca_bundle is not None:
                    trusted.load_verify_locations(self._ca_bundle)
                pool = urllib3.PoolManager(
                    ssl_context=trusted,
                    timeout=urllib3.Timeout(connect=3, read=self._timeout_seconds),
                    maxsize=self._connections,
                    block=False,
                    # Retries happen in _attempt only.
                    retries=urllib3.Retry(0, redirect=False),
                )
                self._made = Minio(
                    endpoint=endpoint.netloc,
                    access_key=self._settings.access_key,
                    secret_key=self._settings.secret_key,
                    secure=endpoint.scheme == "https",
                    region=self._settings.region,
                    http_client=pool,
                )
            return self._made

    def _make_bucket(self, client: Minio) -> None:
        from minio.error import S3Error

        try:
            if not client.bucket_exists(self._settings.bucket):
                client.make_bucket(self._settings.bucket)
        except S3Error as error:
            if error.code == "NoSuchBucket":
                # SeaweedFS answers so while another process creates it: retry.
                raise ConnectionError("the bucket is not there yet") from error
            # Another process was faster.
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        self._has_bucket = True

    def _attempt(self, op: str, purpose: str, call: Callable[[Minio], T]) -> T:
        """Runs the call and retries temporary errors. `op` is its name in the metrics.

        Raises ObjectNotFound, PlatformError.
        """
        import tenacity
        from minio.error import S3Error

        def once() -> T:
            client = self._client()
            if not self._has_bucket:
                self._make_bucket(client)
            with timed_object_request(op):
                return call(client)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_transient),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=2.0),
            stop=tenacity.stop_after_delay(self._retry_seconds),
            reraise=True,
        )
        try:
            return retrying(once)
        except S3Error as error:
            if error.code in _ABSENT:
                raise ObjectNotFound(str(error.object_name)) from error
            if error.code == "NoSuchBucket":
                # Somebody deleted the bucket; the next call creates it again.
                self._has_bucket = False
            raise PlatformError(f"The object store could not {purpose}: {error.code}: {error.message}") from error
        except Exception as error:
            if _is_transient(error):
                raise PlatformError(
                    f"The object store does not answer (to {purpose}): {type(error).__name__}. "
                    "Check that it runs at CLOUDIFY_S3_ENDPOINT."
                ) from error
            raise


def _whole_body(response: BaseHTTPResponse) -> bytes:
    try:
        expected, data = int(response.headers["Content-Length"]), response.read()
    finally:
        response.close()
        response.release_conn()
    if len(data) != expected:
        raise ConnectionError(f"got {len(data)} of {expected} bytes")
    return data


def _is_transient(error: BaseException) -> bool:
    from minio.error import InvalidResponseError, S3Error, ServerError
    from urllib3.exceptions import HTTPError

    if isinstance(error, S3Error):
        return error.code in _TRANSIENT
    return isinstance(error, (HTTPError, InvalidResponseError, ServerError, ConnectionError, TimeoutError))
