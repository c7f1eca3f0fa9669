"""Fills a directory from a canonical tar and trusts nothing in it; `tar_format.py` describes it.

Standard library only: pods run this module, too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from workers.filesystem.descent import open_directory
from workers.snapshots.tar_format import (
    BLOCK,
    CHUNK,
    OPAQUE,
    ContentRejected,
    Digest,
    Entry,
    Packed,
    check_link,
    check_path,
    disk_bytes,
    number,
    parse_entry,
    parse_records,
    shown,
)

_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ReadableStream(Protocol):
    def read(self, size: int, /) -> bytes:
        """`size` bytes, fewer only at the end."""
        ...


class TreeReader:
    """Reads the canonical form only; anything else is refused, so there is little to get wrong."""

    def __init__(self, stream: ReadableStream) -> None:
        self._stream = stream
        self.digest = Digest()

    def exactly(self, length: int) -> bytes:
        data = self._stream.read(length)
        if len(data) != length:
            raise ContentRejected("The tarball ends too early.")
        return data

    def content(self, length: int) -> bytes:
        data = self.exactly(length)
        self.digest.data(data)
        return data

    def next(self) -> Entry | None:
        block = self._header_block()
        if block is None:
            return None
        extended: dict[bytes, bytes] = {}
        if block[156:157] == b"x":
            length = number(block[124:136])
            if length > CHUNK:
                raise ContentRejected("An extended header is too long.")
            extended = parse_records(self.content(length + -length % BLOCK)[:length])
            block = self._header_block()
            if block is None:
                raise ContentRejected("An extended header has no entry.")
        return parse_entry(block, extended)

    def _header_block(self) -> bytes | None:
        block = self.exactly(BLOCK)
        if block == b"\0" * BLOCK:
            if self.exactly(BLOCK) != block or self._stream.read(1):
                raise ContentRejected("The tarball continues after its end.")
            self.digest.data(block + block)
            return None
        if number(block[148:156]) != sum(block[:148]) + sum(block[156:]) + 8 * 32:
            raise ContentRejected("A header's checksum is wrong.")
        self.digest.header(block)
        return block


Make = Callable[["TreeReader", Entry, bytes, list[tuple[bytes, int]]], None]


def read_tree(stream: ReadableStream, directory: Path, *, maximum_bytes: int, make: Make | None = None) -> Packed:
    """Fills the empty directory from an uncompressed tar; nothing outside of it can be touched.

    `make` makes one entry, by its name in the directory that the last descriptor of the chain is of; `make_entry`
    unless given. Returns what `write_tree` returned for the tar. Raises ContentRejected for a tar that is not
    canonical or larger than `maximum_bytes`; the directory then holds a part of it.
    """
    tree_bytes = entries = 0
    make = make or make_entry
    # Open descriptors of the directories on the way to the entry at hand, with their names; closed on the way back.
    chain: list[tuple[bytes, int]] = [(b"", open_directory(directory))]
    try:
        reader = TreeReader(stream)
        while (entry := reader.next()) is not None:
            entries += 1
            tree_bytes += disk_bytes(entry.size)
            if tree_bytes > maximum_bytes:
                raise ContentRejected(f"The files take more than {maximum_bytes // (1 << 20)} MiB.")
            parts = check_path(entry.path)
            while len(chain) > len(parts) or [name for name, _ in chain[1:]] != parts[: len(chain) - 1]:
                os.close(chain.pop()[1])
            if len(chain) != len(parts):
                raise ContentRejected(f"The directory of {shown(entry.path)} does not precede it.")
            make(reader, entry, parts[-1], chain)
        return Packed(reader.digest.hexdigest(), tree_bytes, entries)
    except FileExistsError as error:
        raise ContentRejected("The tarball holds one path twice.") from error
    finally:
        for _, descriptor in chain:
            os.close(descriptor)


def make_entry(reader: TreeReader, entry: Entry, name: bytes, chain: list[tuple[bytes, int]]) -> None:
    """Makes the entry where nothing is yet. Raises FileExistsError."""
    parent = chain[-1][1]
    if entry.kind == b"0":
        descriptor = os.open(name, _CREATE_FILE, 0o600, dir_fd=parent)
        try:
            left = entry.size
            while left:
                data = reader.content(min(left, CHUNK))
                _write_all(descriptor, data)
                left -= len(data)
            if entry.size % BLOCK:
                reader.content(-entry.size % BLOCK)
            os.fchmod(descriptor, entry.mode | 0o400)
            os.utime(descriptor, (entry.mtime, entry.mtime))
        finally:
            os.close(descriptor)
    elif entry.kind == b"5":
        os.mkdir(name, 0o700, dir_fd=parent)
        chain.append((name, open_directory(name, parent)))
        os.fchmod(chain[-1][1], entry.mode | 0o700)
        if entry.is_opaque:
            os.setxattr(chain[-1][1], OPAQUE, b"y")
    elif entry.kind == b"2":
        check_link(entry.path, entry.target)
        os.symlink(entry.target, name, dir_fd=parent)
    else:
        # A whiteout; the kernel lets ordinary users make these (Linux 5.8), unlike real devices.
        os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
