"""Packs a directory into a zstd-compressed tar and unpacks it again, trusting neither.

The tar is plain POSIX (ustar with PAX headers where a field doesn't fit) and canonical: depth first, names in byte
order, owner 0:0, permission bits only. Its digest is the SHA-256 of the uncompressed stream without the modification
times (and the header checksums that depend on them), so the same content has the same digest on every machine, while
the times survive: Python's byte code caches are valid only for the time of the source they were made from.

In addition to files, directories and symbolic links it carries what overlayfs leaves in an upper layer: whiteouts
(character devices 0:0) and opaque directories (the attribute user.overlay.opaque).

Neither way follows a symbolic link: every name is opened relative to the descriptor of its directory with O_NOFOLLOW.
A link may be relative and stay in the tree, or be absolute: those (`.venv/bin/python`) mean something only inside a
sandbox, where the same tree is mounted.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import zstandard

from workers.filesystem.descent import open_directory
from workers.snapshots.tar_format import (
    BLOCK,
    MAXIMUM_DEPTH,
    MAXIMUM_USTAR,
    OPAQUE,
    ArchiveRejected,
    Digest,
    Entry,
    check_link,
    check_path,
    headers_of,
    number,
    parse_entry,
    parse_records,
    shown,
    unreadable,
)

_CHUNK = 1 << 20
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Level 3 compresses dependencies three to four times at some 200 MB/s a thread; higher ones cost more than they save.
_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Packed:
    """`digest` names the content; `tree_bytes` is what the unpacked tree takes on disk, roughly."""

    digest: str
    tree_bytes: int
    entries: int


# --- packing ---


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
        if len(self._buffer) >= _CHUNK:
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

    A descriptor is valid until the next step. Raises ArchiveRejected for sockets, pipes, devices but whiteouts, and
    links that leave the tree, and for what can't be read or goes away meanwhile. Directories that their owner shut are
    opened up, as unpacking does.
    """
    if prefix.count(b"/") >= MAXIMUM_DEPTH:
        raise ArchiveRejected(f"{shown(prefix[:200])}… is nested deeper than {MAXIMUM_DEPTH} directories.")
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
            raise ArchiveRejected(f"{shown(path)} is a device, socket or pipe; only files, directories and links fit.")


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


def pack(directory: Path, archive: Path, *, maximum_bytes: int, threads: int = 2) -> Packed:
    """Writes `archive` from the directory's content, reading each file once; it is not forced to the disk.

    Raises ArchiveRejected for what can't be carried, and when the tree takes more than `maximum_bytes`. Nobody may
    write to the directory meanwhile.
    """
    root = open_directory(directory)
    tree_bytes = entries = 0
    try:
        # A directory that its owner may not write to can't be moved to another parent afterwards.
        os.fchmod(root, stat.S_IMODE(os.fstat(root).st_mode) | 0o700)
        with archive.open("xb") as raw:
            writer = _Writer(raw, threads)
            for entry, parent, name in walk(root):
                entries += 1
                tree_bytes += _disk_bytes(entry.size)
                if tree_bytes > maximum_bytes:
                    raise ArchiveRejected(f"The files take more than {maximum_bytes // (1 << 20)} MiB.")
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
                data = os.read(descriptor, min(left, _CHUNK))
            except OSError as error:
                raise unreadable(entry.path, error) from error
            if not data:
                raise ArchiveRejected(f"{shown(entry.path)} shrank while it was read.")
            writer.content(data)
            left -= len(data)
        padding = -entry.size % BLOCK
        if padding:
            writer.content(b"\0" * padding)
    finally:
        os.close(descriptor)


def _disk_bytes(size: int) -> int:
    """What an entry takes on disk: whole blocks of 4 KiB, of which the inode's share is the first."""
    return 4096 + (size + 4095) // 4096 * 4096 if size else 4096


# --- unpacking ---


class _Reader:
    """Reads the canonical form only; anything else is refused, so there is little to get wrong."""

    def __init__(self, raw: BinaryIO) -> None:
        stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw, read_across_frames=False)
        self._stream = io.BufferedReader(stream, _CHUNK)  # pyright: ignore[reportArgumentType]
        self.digest = Digest()

    def exactly(self, length: int) -> bytes:
        data = self._stream.read(length)
        if len(data) != length:
            raise ArchiveRejected("The archive ends too early.")
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
            if length > _CHUNK:
                raise ArchiveRejected("An extended header is too long.")
            extended = parse_records(self.content(length + -length % BLOCK)[:length])
            block = self._header_block()
            if block is None:
                raise ArchiveRejected("An extended header has no entry.")
        return parse_entry(block, extended)

    def _header_block(self) -> bytes | None:
        block = self.exactly(BLOCK)
        if block == b"\0" * BLOCK:
            if self.exactly(BLOCK) != block or self._stream.read(1):
                raise ArchiveRejected("The archive continues after its end.")
            self.digest.data(block + block)
            return None
        if number(block[148:156]) != sum(block[:148]) + sum(block[156:]) + 8 * 32:
            raise ArchiveRejected("A header's checksum is wrong.")
        self.digest.header(block)
        return block


def unpack(archive: Path, directory: Path, *, maximum_bytes: int) -> Packed:
    """Fills the empty directory; nothing outside of it can be touched. Returns what `pack` returned for the archive.

    Raises ArchiveRejected for an archive that is damaged, not canonical or larger than `maximum_bytes`; the directory
    then holds a part of it. The caller compares the digest before it uses the tree.
    """
    tree_bytes = entries = 0
    # Open descriptors of the directories on the way to the entry at hand, with their names; closed on the way back.
    chain: list[tuple[bytes, int]] = [(b"", open_directory(directory))]
    try:
        with archive.open("rb") as raw:
            reader = _Reader(raw)
            while (entry := reader.next()) is not None:
                entries += 1
                tree_bytes += _disk_bytes(entry.size)
                if tree_bytes > maximum_bytes:
                    raise ArchiveRejected(f"The files take more than {maximum_bytes // (1 << 20)} MiB.")
                parts = check_path(entry.path)
                while len(chain) > len(parts) or [name for name, _ in chain[1:]] != parts[: len(chain) - 1]:
                    os.close(chain.pop()[1])
                if len(chain) != len(parts):
                    raise ArchiveRejected(f"The directory of {shown(entry.path)} does not precede it.")
                _make(reader, entry, parts[-1], chain)
            return Packed(reader.digest.hexdigest(), tree_bytes, entries)
    except zstandard.ZstdError as error:
        raise ArchiveRejected(f"The archive is damaged: {error}.") from error
    except FileExistsError as error:
        raise ArchiveRejected("The archive holds one path twice.") from error
    finally:
        for _, descriptor in chain:
            os.close(descriptor)


def _make(reader: _Reader, entry: Entry, name: bytes, chain: list[tuple[bytes, int]]) -> None:
    parent = chain[-1][1]
    if entry.kind == b"0":
        descriptor = os.open(name, _CREATE_FILE, 0o600, dir_fd=parent)
        try:
            left = entry.size
            while left:
                data = reader.content(min(left, _CHUNK))
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
