"""Packs a directory into a tarball; `tar_format.py` describes it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

import zstandard

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
# Level 3 compresses dependencies three to four times at some 200 MB/s a thread; higher ones cost more than they save.
_LEVEL = 3


class _Writer:
    def __init__(self, raw: BinaryIO, threads: int) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=threads, write_checksum=True).stream_writer(
            raw, closefd=False
        )
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
            self._compressor.write(self._buffer)
            self._buffer = bytearray()

    def finish(self) -> None:
        self.content(b"\0" * (2 * BLOCK))
        self._compressor.write(self._buffer)
        self._compressor.close()


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
    if prefix.count(b"/") >= MAXIMUM_DEPTH:
        raise ContentRejected(f"{shown(prefix[:200])}… is nested deeper than {MAXIMUM_DEPTH} directories.")
    for name, status in _entries(directory, prefix):
        path = prefix + name
        mtime = min(max(int(status.st_mtime), 0), MAXIMUM_USTAR)
        permissions = status.st_mode & 0o777
        if stat.S_ISREG(status.st_mode):
            yield Entry(b"0", path, permissions | 0o400, status.st_size, mtime), directory, name
        elif stat.S_ISDIR(status.st_mode):
            child, is_opaque = _enter(path, name, directory, permissions)
            try:
                yield Entry(b"5", path, permissions | 0o700, 0, mtime, is_opaque=is_opaque), directory, name
                yield from walk(child, path + b"/")
            finally:
                os.close(child)
        elif stat.S_ISLNK(status.st_mode):
            try:
                target = os.readlink(name, dir_fd=directory)
            except OSError as error:
                raise unreadable(path, error) from error
            check_link(path, target)
            yield Entry(b"2", path, 0o777, 0, mtime, target), directory, name
        elif stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
            yield Entry(b"3", path, 0, 0, 0), directory, name
        else:
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


def pack(directory: Path, tarball: Path, *, maximum_bytes: int, threads: int = 2) -> Packed:
    """Writes `tarball` from the directory's content, reading each file once; it is not forced to the disk.

    Raises ContentRejected for what can't be carried, and when the tree takes more than `maximum_bytes`. Nobody may
    write to the directory meanwhile.
    """
    root = open_directory(directory)
    tree_bytes = entries = 0
    try:
        # A directory that its owner may not write to can't be moved to another parent afterwards.
        os.fchmod(root, stat.S_IMODE(os.fstat(root).st_mode) | 0o700)
        with tarball.open("xb") as raw:
            writer = _Writer(raw, threads)
            for entry, parent, name in walk(root):
                entries += 1
                tree_bytes += disk_bytes(entry.size)
                if tree_bytes > maximum_bytes:
                    raise ContentRejected(f"The files take more than {maximum_bytes // (1 << 20)} MiB.")
                writer.blocks(headers_of(entry))
                if entry.size:
                    _pack_file(writer, entry, parent, name)
            writer.finish()
    finally:
        os.close(root)
    return Packed(writer.digest.hexdigest(), tree_bytes, entries)


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
