"""Pointer files of Git LFS: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md. Read in the child."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO

from shared.errors import FailureCode, StageFailure
from workers.filesystem.descent import opened_parent

VERSION = "version https://git-lfs.github.com/spec/v1"
# Pointers are smaller by the specification.
_MAXIMUM_POINTER = 1024
_OID = re.compile(r"^oid sha256:([0-9a-f]{64})$", re.MULTILINE)
_SIZE = re.compile(r"^size ([0-9]{1,15})$", re.MULTILINE)
_EXTENSION = re.compile(r"^ext-", re.MULTILINE)


def read_pointers(tree: Path, names: IO[bytes], on_read: Callable[[str], None]) -> list[tuple[int, str, int]]:
    """Index of the name, SHA-256 and bytes, of each file that is a pointer. Each of `names` ends with NUL.

    Raises StageFailure.
    """
    found: list[tuple[int, str, int]] = []
    for index, name in enumerate(map(os.fsdecode, split_names(names))):
        on_read(name)
        pointer = _read_pointer(tree, name)
        if pointer is not None:
            found.append((index, *pointer))
    return found


def split_names(names: IO[bytes]) -> list[bytes]:
    """The names that the whole file holds, without the NUL after each."""
    names.seek(0)
    return names.read().split(b"\0")[:-1]


def _read_pointer(tree: Path, path: str) -> tuple[str, int] | None:
    """None for what is no pointer, and so stays as it is."""
    try:
        with opened_parent(tree, path) as (parent, name):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
            with os.fdopen(descriptor, "rb") as file:
                data = file.read(_MAXIMUM_POINTER + 1)
    except OSError:
        return None
    text = data.decode("utf-8", "replace")
    oid, size = _OID.search(text), _SIZE.search(text)
    if len(data) > _MAXIMUM_POINTER or not text.startswith(VERSION + "\n") or oid is None or size is None:
        return None
    if _EXTENSION.search(text):
        raise StageFailure(
            FailureCode.REPOSITORY_LFS_MISSING,
            f"{path}: it is stored with an extension of Git LFS, whose program the platform doesn't run.",
        )
    return oid[1], int(size[1])
