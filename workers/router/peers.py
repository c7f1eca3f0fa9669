"""The other routers of the fleet: how far each one is, and the files that it has, for when the stores are away.

A file is asked for by the digest of its content, which nobody can guess who doesn't know it, and the reader checks it.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from workers.router.kept_files import read_kept, write_kept

POSITION_PATH = "/position"
BLOBS_PATH = "/blobs/"
_POSITION_SECONDS = 0.5
_BLOB_SECONDS = 3.0
# A router that didn't answer isn't asked for files for so long.
_REST_SECONDS = 10.0
_PART_BYTES = 1 << 20


class PeerState(msgspec.Struct, frozen=True, rename="camel"):
    """What a router says of itself to others.

    `is_complete`: it is ready, and has the files of all sites that were asked for there. A router of an earlier version
    doesn't say.
    """

    epoch: str
    number: int
    is_complete: bool = False


class _NotThere(Exception):
    """The router doesn't answer with the file."""


class Peers:
    """Safe from any thread. `file` keeps the addresses between processes, for a start while PostgreSQL is away."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._urls: list[str] = read_kept(file, list[str]) or []
        self._lock = threading.Lock()
        self._resting_until: dict[str, float] = {}
        # The one that had the last file, as it probably has the next one, too.
        self._last: str | None = None

    @property
    def urls(self) -> Sequence[str]:
        return self._urls

    def know(self, urls: Sequence[str]) -> None:
        """Replaces the addresses."""
        if list(urls) != self._urls:
            self._urls = list(urls)
            write_kept(self._file, self._urls)

    def ask(self, url: str) -> PeerState | None:
        """None if the router doesn't answer."""
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_POSITION_SECONDS)
        try:
            connection.request("GET", POSITION_PATH)
            return msgspec.json.decode(connection.getresponse().read(1000), type=PeerState | None)
        except (OSError, http.client.HTTPException, msgspec.DecodeError):
            return None
        finally:
            connection.close()

    def fetch(self, tenant_id: str, digest: str, destination: Path) -> bool:
        """Writes the first copy that a router has, which the caller checks; False if none answers with one.

        Raises OSError if the file can't be written.
        """
        for url in self._in_order():
            try:
                with (
                    destination.open("wb") as file,
                    closing(self._read(url, f"{BLOBS_PATH}{tenant_id}/{digest}")) as parts,
                ):
                    file.writelines(parts)
            except _NotThere:
                continue
            self._last = url
            return True
        return False

    def _in_order(self) -> list[str]:
        now = time.monotonic()
        with self._lock:
            urls = [url for url in self._urls if self._resting_until.get(url, 0.0) < now]
        random.shuffle(urls)
        return sorted(urls, key=lambda url: url != self._last)

    def _read(self, url: str, path: str) -> Generator[bytes]:
        """The parts of a file. Raises _NotThere."""
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=_BLOB_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise _NotThere
            while part := answer.read(_PART_BYTES):
                yield part
        except (OSError, http.client.HTTPException) as error:
            with self._lock:
                self._resting_until[url] = time.monotonic() + _REST_SECONDS
            raise _NotThere from error
        finally:
            connection.close()
