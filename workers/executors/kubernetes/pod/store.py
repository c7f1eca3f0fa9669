"""The object store as pods reach it: by signed links, without keys. Standard library only."""

from __future__ import annotations

import http.client
import io
import secrets
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar
from urllib.parse import urlsplit

from workers.executors.kubernetes.pod.ending import LINK_REFUSED, STORE_AWAY, PodFailure

T = TypeVar("T")

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30.0
_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 1.0


class Store:
    """`certificates`: a PEM file to trust in addition to the image's, or None."""

    def __init__(self, certificates: Path | None) -> None:
        context = ssl.create_default_context()
        if certificates is not None:
            context.load_verify_locations(certificates)
        self._context = context
        # The image may name a proxy in its environment: the store is reached directly.
        handlers = (urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)

    def download(self, link: str, path: Path) -> None:
        """Raises PodFailure when the link is refused, or the store doesn't answer for long."""

        def get() -> None:
            with self._opener.open(link, timeout=_TIMEOUT_SECONDS) as response, path.open("wb") as file:
                expected, received = int(response.headers["Content-Length"]), 0
                while data := response.read(_CHUNK):
                    received += len(data)
                    file.write(data)
            if received != expected:
                raise ConnectionError(f"got {received} of {expected} bytes")

        _patiently(get)

    def upload(self, url: str, fields: Mapping[str, str], path: Path) -> None:
        """Sends the file with a form whose signature binds its key and its largest size. Raises PodFailure."""
        boundary = secrets.token_hex(16)
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        ]
        parts.append(
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="tree"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        head, tail = "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode()
        size = len(head) + path.stat().st_size + len(tail)

        def post() -> None:
            with path.open("rb") as file:
                request = urllib.request.Request(url, method="POST")  # noqa: S310 - the worker's own address
                request.add_header("Content-Type", f"multipart/form-data; boundary={boundary}")
                request.add_header("Content-Length", str(size))
                request.data = _Joined([io.BytesIO(head), file, io.BytesIO(tail)])
                with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as response:
                    response.read()

        _patiently(post)

    def answer_to_strangers(self, url: str) -> int:
        """The HTTP status of an unsigned request. Raises OSError when nothing answers."""
        try:
            with self._opener.open(url, timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code


class _Joined:
    """A file of several, for a request's body."""

    def __init__(self, files: list[BinaryIO | io.BytesIO]) -> None:
        self._files = files

    def read(self, size: int = -1) -> bytes:
        while self._files:
            data = self._files[0].read(_CHUNK if size < 0 else size)
            if data:
                return data
            self._files.pop(0)
        return b""


def address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _patiently(call: Callable[[], T]) -> T:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return call()
        except urllib.error.HTTPError as error:
            said = error.read(500).decode(errors="replace")
            if error.code < 500 and error.code not in (408, 429):
                message = f"The object store refused a link of this run ({error.code}): {said}"
                raise PodFailure(LINK_REFUSED, message) from error
            problem = f"it answers {error.code}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(error)
        if time.monotonic() > deadline:
            raise PodFailure(STORE_AWAY, f"The object store does not answer: {problem}.")
        time.sleep(_PAUSE_SECONDS)
