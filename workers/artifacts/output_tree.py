"""Which files of a build's output make up the site. Runs in the child that reads what tenants wrote."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from shared.errors import FailureCode, StageFailure
from shared.text.wording import counted
from workers.filesystem.descent import open_directory
from workers.snapshots.tar_format import ContentRejected, shown
from workers.snapshots.tree_writer import walk

_MEBIBYTE = 1 << 20
_MAXIMUM_PATH = 1024
_MAXIMUM_LINKS = 40
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")


@dataclass(frozen=True, slots=True)
class OutputLimits:
    """Of a site. As many links may be in an output as files, and as many directories on the site."""

    maximum_output_files: int
    maximum_output_bytes: int
    maximum_file_bytes: int


SITE_LIMITS = OutputLimits(
    maximum_output_files=20_000, maximum_output_bytes=1024 * 1024**2, maximum_file_bytes=100 * 1024**2
)


def scan_output(tree: Path, limits: OutputLimits, on_read: Callable[[str], None]) -> list[tuple[str, str, int]]:
    """Path on the site, the file of the tree that holds its content (relative), and its size.

    Links inside the tree stand for what they point at. Raises StageFailure naming the path of what can't be a part of
    a site, or the limit that is passed.
    """
    found: dict[bytes, tuple[bytes, int]] = {}
    links: dict[bytes, bytes] = {}
    root = open_directory(tree)
    try:
        for entry, _, _ in walk(root):
            on_read(os.fsdecode(entry.path))
            if entry.kind == b"0":
                found[entry.path] = (entry.path, entry.size)
                _check_limits(entry.path, entry.size, len(found), limits)
            elif entry.kind == b"2":
                links[entry.path] = entry.target
                _check_limits(entry.path, 0, len(links), limits)
            elif entry.kind == b"3":
                raise _invalid(f"{shown(entry.path)} is a device")
    except ContentRejected as error:
        raise StageFailure(FailureCode.OUTPUT_INVALID, f"The output can't be published: {error}") from error
    finally:
        os.close(root)
    _expand_links(found, links, limits)
    _check_directories(found, limits)
    if not found:
        raise StageFailure(
            FailureCode.OUTPUT_DIRECTORY_EMPTY,
            "The output directory holds no files. Check the build command and the project's outputDirectory.",
        )
    total = sum(size for _, size in found.values())
    if total > limits.maximum_output_bytes:
        raise StageFailure(
            FailureCode.OUTPUT_TOO_LARGE,
            f"The output takes {shown_size(total)}; at most {shown_size(limits.maximum_output_bytes)} are allowed.",
        )
    # What a link leads to is a file of the output itself, so its name fits as well.
    return [(_site_path(path), _site_path(source), size) for path, (source, size) in found.items()]


def _check_limits(path: bytes, size: int, count: int, limits: OutputLimits) -> None:
    if count > limits.maximum_output_files:
        raise StageFailure(
            FailureCode.OUTPUT_TOO_LARGE, f"The output has more than {counted(limits.maximum_output_files, 'file')}."
        )
    if size > limits.maximum_file_bytes:
        raise StageFailure(
            FailureCode.OUTPUT_TOO_LARGE,
            f"{shown(path)} takes {shown_size(size)}; a file may take {shown_size(limits.maximum_file_bytes)}.",
        )


def _check_directories(found: Iterable[bytes], limits: OutputLimits) -> None:
    """Counts the directories that the site is made of, those below links too: each one is new on the host's disk."""
    directories: set[bytes] = set()
    for path in found:
        parent = path.rpartition(b"/")[0]
        while parent and parent not in directories:
            directories.add(parent)
            if len(directories) > limits.maximum_output_files:
                most = counted(limits.maximum_output_files, "directory", "directories")
                raise StageFailure(
                    FailureCode.OUTPUT_TOO_LARGE,
                    f"The output has more than {most}; {shown(parent)} is one too many. Put more files into each.",
                )
            parent = parent.rpartition(b"/")[0]


def _expand_links(found: dict[bytes, tuple[bytes, int]], links: Mapping[bytes, bytes], limits: OutputLimits) -> None:
    """Puts what each link points at under the link's path: first files, then the files of directories."""
    directories: list[tuple[bytes, bytes]] = []
    for path in links:
        target = _follow(path, links)
        if target in found:
            found[path] = found[target]
            _check_limits(path, found[path][1], len(found), limits)
        else:
            directories.append((path, target))
    plain, names = dict(found), sorted(found)
    for path, target in directories:
        prefix = target + b"/" if target else b""
        inside = takewhile(lambda name: name.startswith(prefix), islice(names, bisect_left(names, prefix), None))  # noqa: B023 - used up at once
        below = {path + b"/" + name[len(prefix) :]: plain[name] for name in inside}
        if not below or (path + b"/").startswith(prefix):
            raise _invalid(f"the symbolic link {shown(path)} points at nothing that can be published")
        found.update(below)
        _check_limits(path, 0, len(found), limits)


def _follow(path: bytes, links: Mapping[bytes, bytes]) -> bytes:
    """Where the link leads, by the tree's own entries alone; nothing is opened."""
    rest, resolved, followed = path.split(b"/"), list[bytes](), 0
    while rest:
        part = rest.pop(0)
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not resolved:
                raise _invalid(f"the symbolic link {shown(path)} leaves the output directory")
            resolved.pop()
            continue
        resolved.append(part)
        target = links.get(b"/".join(resolved))
        if target is not None:
            followed += 1
            if target.startswith(b"/") or followed > _MAXIMUM_LINKS:
                raise _invalid(f"the symbolic link {shown(path)} leaves the output directory or leads in a circle")
            resolved.pop()
            rest = target.split(b"/") + rest
    return b"/".join(resolved)


def _site_path(path: bytes) -> str:
    try:
        text = path.decode()
    except UnicodeDecodeError:
        raise _invalid(f"the name {shown(path)} is not UTF-8") from None
    if _UNFIT.search(text):
        raise _invalid(f"the name {shown(path)} holds control characters or a backslash")
    if len(path) > _MAXIMUM_PATH:
        raise _invalid(f"the path {text[:80]}… is longer than {_MAXIMUM_PATH} bytes")
    return text


def _invalid(problem: str) -> StageFailure:
    return StageFailure(FailureCode.OUTPUT_INVALID, f"The output can't be published: {problem}. Remove or rename it.")


def shown_size(size: int) -> str:
    return f"{size / _MEBIBYTE:.1f} MiB" if size >= _MEBIBYTE else f"{size / 1024:.1f} KiB"
