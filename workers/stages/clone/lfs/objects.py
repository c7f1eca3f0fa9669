"""Objects of Git LFS: the contents that pointers name, and their verification."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shared.errors import FailureCode, PlatformError, StageFailure
from workers.stages.clone.deadline import Deadline


@dataclass(frozen=True, slots=True)
class LfsObject:
    """`oid` is the content's SHA-256, `size` its bytes."""

    oid: str
    size: int


def verified_copy(chunks: Iterable[bytes], wanted: LfsObject, path: str, directory: Path, deadline: Deadline) -> None:
    """Writes the object to `directory`/oid. Raises StageFailure unless its size and digest match the pointer's.

    `path`: a file with this content, for the message.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with (directory / wanted.oid).open("wb") as file:
            for chunk in chunks:
                deadline.check()
                size += len(chunk)
                if size > wanted.size:
                    break
                digest.update(chunk)
                file.write(chunk)
    except OSError as error:
        raise PlatformError(f"A file from Git LFS could not be written: {error.strerror}") from error
    if size != wanted.size or digest.hexdigest() != wanted.oid:
        raise StageFailure(
            FailureCode.REPOSITORY_LFS_MISSING,
            f"{path}: the content from the Git LFS server differs from its pointer ({wanted.oid[:12]}, {wanted.size} "
            "bytes). Push the file again: `git lfs push --all`.",
        )


def object_missing(path: str, host: str) -> StageFailure:
    return StageFailure(
        FailureCode.REPOSITORY_LFS_MISSING,
        f"{path}: the Git LFS server {host} doesn't have its content. Push it: `git lfs push --all`.",
    )
