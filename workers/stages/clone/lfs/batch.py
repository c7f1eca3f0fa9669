"""The batch API of Git LFS: requests for the download addresses of objects, and their responses.

https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import cast

from shared.errors import FailureCode, StageFailure
from workers.stages.clone.lfs.objects import LfsObject, object_missing


@dataclass(frozen=True, slots=True)
class Download:
    """An object's address and the headers of the request for it, from the server. Both may contain secrets."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


def write_request(objects: Iterable[LfsObject]) -> bytes:
    request = {
        "operation": "download",
        "transfers": ["basic"],
        "objects": [{"oid": wanted.oid, "size": wanted.size} for wanted in objects],
        "hash_algo": "sha256",
    }
    return json.dumps(request).encode()


def read_answer(data: bytes, host: str, wanted: Mapping[LfsObject, str]) -> dict[LfsObject, Download]:
    """Returns the download of each requested object. `wanted`: a path of each, for messages.

    Raises StageFailure if one is missing, or if the response is malformed.
    """
    try:
        answer = _mapping(json.loads(data))
    except (ValueError, RecursionError):
        answer = None
    if answer is None:
        raise server_unusable(host, "sends an invalid response")
    if answer.get("transfer", "basic") != "basic":
        raise server_unusable(host, "asks for a transfer type that wasn't offered")
    given = answer.get("objects")
    by_oid: dict[str, Mapping[str, object]] = {}
    for entry in map(_mapping, cast("list[object]", given) if isinstance(given, list) else []):
        oid = None if entry is None else entry.get("oid")
        if entry is not None and isinstance(oid, str):
            by_oid[oid] = entry
    return {item: _read_download(by_oid.get(item.oid), path, host) for item, path in wanted.items()}


def _read_download(entry: Mapping[str, object] | None, path: str, host: str) -> Download:
    if entry is None or entry.get("error"):
        raise object_missing(path, host)
    download = _mapping((_mapping(entry.get("actions")) or {}).get("download")) or {}
    url = download.get("href")
    if not isinstance(url, str):
        raise object_missing(path, host)
    headers = _mapping(download.get("header") or {})
    if headers is None:
        raise server_unusable(host, "sends an invalid response")
    return Download(url, {name: str(value) for name, value in headers.items()})


def server_unusable(host: str, problem: str) -> StageFailure:
    return StageFailure(FailureCode.REPOSITORY_LFS_MISSING, f"The Git LFS server {host} {problem}.")


def _mapping(value: object) -> Mapping[str, object] | None:
    """The value if it is a JSON object, else None."""
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else None
