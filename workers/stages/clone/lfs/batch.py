"""What a Git LFS server is asked for a batch of objects, and what it answers.

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
    """Where the server says that an object is, and the headers to ask for it with. Both may hold secrets."""

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
    """A download for each of the objects that were asked for; `wanted` gives a path to name each by.

    Raises StageFailure when one is missing, and when the answer isn't one.
    """
    try:
        answer = _mapping(json.loads(data))
    except (ValueError, RecursionError):
        answer = None
    if answer is None:
        raise server_unusable(host, "doesn't answer as one")
    if answer.get("transfer", "basic") != "basic":
        raise server_unusable(host, "wants a kind of transfer that it wasn't offered")
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
        raise server_unusable(host, "doesn't answer as one")
    return Download(url, {name: str(value) for name, value in headers.items()})


def server_unusable(host: str, problem: str) -> StageFailure:
    return StageFailure(FailureCode.REPOSITORY_LFS_MISSING, f"The Git LFS server {host} {problem}.")


def _mapping(value: object) -> Mapping[str, object] | None:
    """A JSON object, None for another value."""
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else None
