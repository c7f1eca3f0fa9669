"""Writes the entries of a directory as a canonical tar; `tar_format.py` describes it. Standard library only:

pods run this module, too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass

from workers.filesystem.descent import open_directory
from workers.snapshots.tar_format import (
    BLOCK,
    CHUNK,
    MAXIMUM_DEPTH,
    MAXIMUM_USTAR,
    OPAQUE,
    ContentRejected,
    Digest,
    Entry,
    Packed,
    check_link,
    disk_bytes,
    headers_of,
    shown,
    unreadable,
)

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class _Writer:
    def __init__(self, write: Callable[[bytes | bytearray], object]) -> None:
        self._write = write
        self._buffer = bytearray()
        self.digest = Digest()

    def blocks(self, blocks: list[bytes]) -> None:
        for index, block in enumerate(blocks):
            # Of three blocks the one in the middle is the PAX body, which has no time in it.
            if index == 1:
                self.digest.data(block)
            else:
                self.digest.header(block)
            self._buffer += block
        self._spill()

    def content(self, data: bytes) -> None:
        self.digest.data(data)
        self._buffer += data
        self._spill()

    def _spill(self) -> None:
        if len(self._buffer) >= CHUNK:
            self._write(self._buffer)
            self._buffer = bytearray()

    def finish(self) -> None:
        self.content(b"\0" * (2 * BLOCK))
        self._write(self._buffer)


def _open_file(name: bytes, parent: int) -> int:
    try:
        return os.open(name, _OPEN_FILE, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o600, dir_fd=parent)
        return os.open(name, _OPEN_FILE, dir_fd=parent)


def _is_opaque(descriptor: int) -> bool:
    try:
        return os.getxattr(descriptor, OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def walk(directory: int, prefix: bytes = b"") -> Generator[tuple[Entry, int, bytes]]:
    """Each entry below the directory descriptor, in canonical order, with its parent's descriptor and its name.

    A descriptor is valid until the next step. Raises ContentRejected for sockets, pipes, devices but whiteouts, and
    links that leave the tree, and for what can't be read or goes away meanwhile. Directories that their owner shut are
    opened up, as unpacking does.
    """
    _check_depth(prefix)
    for name, status in _entries(directory, prefix):
        path = prefix + name
        if not stat.S_ISDIR(status.st_mode):
            yield _leaf(path, name, status, directory), directory, name
            continue
        permissions = status.st_mode & 0o777
        child, is_opaque = _enter(path, name, directory, permissions)
        try:
            yield _directory(path, status, is_opaque=is_opaque), directory, name
            yield from walk(child, path + b"/")
        finally:
            os.close(child)


@dataclass(frozen=True, slots=True)
class Known:
    """A file as it was before a command. Programs can set the modification time, but not the time of the change."""

    inode: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Known:
        return cls(status.st_ino, status.st_ctime_ns)


def walk_changes(
    directory: int, known: Mapping[bytes, Mapping[bytes, Known]], prefix: bytes = b""
) -> Generator[tuple[Entry, int, bytes]]:
    """As `walk`, of what differs from `known`: new and changed files, whiteouts for names that are gone.

    `known`: directory's path (with a slash at its end; empty for the top) → name → as it was. Directories are
    included where something below them differs, or if they are not the ones that were known.
    """
    _check_depth(prefix)
    before = known.get(prefix, {})
    found = dict(_entries(directory, prefix))
    for name in sorted({*found, *before}):
        path, status = prefix + name, found.get(name)
        if status is None:
            yield Entry(b"3", path, 0), directory, name
        elif not stat.S_ISDIR(status.st_mode):
            if before.get(name) != Known.of(status):
                yield _leaf(path, name, status, directory), directory, name
        else:
            yield from _changed_directory(directory, known, path, name, status)


def _changed_directory(
    parent: int, known: Mapping[bytes, Mapping[bytes, Known]], path: bytes, name: bytes, status: os.stat_result
) -> Generator[tuple[Entry, int, bytes]]:
    before = known.get(path[: len(path) - len(name)], {}).get(name)
    is_same = before is not None and before.inode == status.st_ino
    child, _ = _enter(path, name, parent, status.st_mode & 0o777)
    try:
        changes = walk_changes(child, known, path + b"/")
        first = next(changes, None)
        if first is None and is_same:
            return
        yield _directory(path, status, is_opaque=False), parent, name
        if first is not None:
            yield first
        yield from changes
    finally:
        os.close(child)


def _check_depth(prefix: bytes) -> None:
    if prefix.count(b"/") >= MAXIMUM_DEPTH:
        raise ContentRejected(f"{shown(prefix[:200])}… is nested deeper than {MAXIMUM_DEPTH} directories.")


def _modified(status: os.stat_result) -> int:
    return min(max(int(status.st_mtime), 0), MAXIMUM_USTAR)


def _directory(path: bytes, status: os.stat_result, *, is_opaque: bool) -> Entry:
    return Entry(b"5", path, status.st_mode & 0o777 | 0o700, 0, _modified(status), is_opaque=is_opaque)


def _leaf(path: bytes, name: bytes, status: os.stat_result, directory: int) -> Entry:
    """The entry of anything but a directory. Raises ContentRejected."""
    if stat.S_ISREG(status.st_mode):
        return Entry(b"0", path, status.st_mode & 0o777 | 0o400, status.st_size, _modified(status))
    if stat.S_ISLNK(status.st_mode):
        try:
            target = os.readlink(name, dir_fd=directory)
        except OSError as error:
            raise unreadable(path, error) from error
        check_link(path, target)
        return Entry(b"2", path, 0o777, 0, _modified(status), target)
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return Entry(b"3", path, 0)
    raise ContentRejected(f"{shown(path)} is a device, socket or pipe; only files, directories and links fit.")


def _entries(directory: int, prefix: bytes) -> list[tuple[bytes, os.stat_result]]:
    path = prefix[:-1]
    try:
        found: list[tuple[bytes, os.stat_result]] = []
        with os.scandir(directory) as entries:
            for item in entries:
                path = prefix + os.fsencode(item.name)
                found.append((os.fsencode(item.name), item.stat(follow_symlinks=False)))
    except OSError as error:
        raise unreadable(path, error) from error
    return sorted(found, key=lambda entry: entry[0])


def _enter(path: bytes, name: bytes, parent: int, permissions: int) -> tuple[int, bool]:
    """The descriptor of the directory, which its owner can list and search from here on, and whether it is opaque."""
    try:
        child = open_directory(name, parent)
        try:
            if permissions & 0o700 != 0o700:
                os.fchmod(child, permissions | 0o700)
            return child, _is_opaque(child)
        except BaseException:
            os.close(child)
            raise
    except OSError as error:
        raise unreadable(path, error) from error


def write_tree(
    entries: Iterable[tuple[Entry, int, bytes]],
    write: Callable[[bytes | bytearray], object],
    *,
    maximum_bytes: int,
) -> Packed:
    """Writes the tar of `entries`, which `walk` describes, to `write`; each file is read once.

    Raises ContentRejected for files that can't be read, and when the tree takes more than `maximum_bytes`.
    """
    writer = _Writer(write)
    tree_bytes = count = 0
    for entry, parent, name in entries:
        count += 1
        tree_bytes += disk_bytes(entry.size)
        if tree_bytes > maximum_bytes:
            raise ContentRejected(f"The files take more than {maximum_bytes // (1 << 20)} MiB.")
        writer.blocks(headers_of(entry))
        if entry.size:
            _pack_file(writer, entry, parent, name)
    writer.finish()
    return Packed(writer.digest.hexdigest(), tree_bytes, count)


def _pack_file(writer: _Writer, entry: Entry, parent: int, name: bytes) -> None:
    try:
        descriptor = _open_file(name, parent)
    except OSError as error:
        raise unreadable(entry.path, error) from error
    try:
        left = entry.size
        while left:
            try:
                data = os.read(descriptor, min(left, CHUNK))
            except OSError as error:
                raise unreadable(entry.path, error) from error
            if not data:
                raise ContentRejected(f"{shown(entry.path)} shrank while it was read.")
            writer.content(data)
            left -= len(data)
        padding = -entry.size % BLOCK
        if padding:
            writer.content(b"\0" * padding)
    finally:
        os.close(descriptor)
