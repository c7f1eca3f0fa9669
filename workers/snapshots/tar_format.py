"""The format of tarballs: a zstd-compressed tar. `packing.py` doesn't trust the tree, `unpacking.py` not the tarball.

The tar is plain POSIX (ustar with PAX headers where a field doesn't fit) and canonical: depth first, names in byte
order, owner 0:0, permission bits only. Its digest is the SHA-256 of the uncompressed stream without the modification
times (and the header checksums that depend on them), so the same content has the same digest on every machine, while
the times survive: Python's byte code caches are valid only for the time of the source they were made from.

In addition to files, directories and symbolic links it carries what overlayfs leaves in an upper layer: whiteouts
(character devices 0:0) and opaque directories (the attribute user.overlay.opaque).

Neither follows a symbolic link: every name is opened relative to the descriptor of its directory with O_NOFOLLOW.
A link may be relative and stay in the tree, or be absolute: those (`.venv/bin/python`) mean something only inside a
sandbox, where the same tree is mounted.
"""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass

from shared.text.written import escaped

BLOCK = 512
# How much of a file, and of a stream, is read or written at once.
CHUNK = 1 << 20
MAXIMUM_DEPTH = 200
# What an upper layer marks a directory with that hides the one below it, where user namespaces mount overlayfs.
OPAQUE = "user.overlay.opaque"

_PAX_OPAQUE = b"SCHILY.xattr.user.overlay.opaque"
# Linux takes no longer one.
_MAXIMUM_TARGET = 4095
# No number that is meant has more; Python refuses to read very long ones in a way of its own.
_MAXIMUM_DIGITS = 19
# A size of 12 octal digits and a NUL no longer fits the field; larger ones go into a PAX header.
MAXIMUM_USTAR = 0o77777777777


class ContentRejected(Exception):
    """The tree or tarball holds something that is not carried over; the message names the path."""


@dataclass(frozen=True, slots=True)
class Packed:
    """`digest` names the content; `tree_bytes` is what the unpacked tree takes on disk, roughly."""

    digest: str
    tree_bytes: int
    entries: int


@dataclass(frozen=True, slots=True)
class Entry:
    """`kind` is the tar's type flag: 0 file, 2 symbolic link, 3 whiteout, 5 directory.

    Names are raw bytes, whatever their encoding.
    """

    kind: bytes
    path: bytes
    mode: int
    size: int = 0
    mtime: int = 0
    target: bytes = b""
    is_opaque: bool = False


# What a tree can be made to answer by its modes, kinds, names and links, or by changing while it is read. Any other
# error (of the disk, of memory, of the process's own limits) is the platform's.
_OF_THE_TREE = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENXIO,
        errno.ENODEV,
    }
)


def is_of_the_tree(error: OSError) -> bool:
    """Whether an error about a path inside a tenant's tree is about what the tenant left there."""
    return error.errno in _OF_THE_TREE


def unreadable(path: bytes, error: OSError) -> Exception:
    """What to raise for an error about `path`, relative to a tenant's tree: the platform's stays as it is."""
    if not is_of_the_tree(error):
        return error
    reason = os.strerror(error.errno or 0)
    return ContentRejected(f"{shown(path[:600]) or 'The top directory'} can't be read: {reason}.")


def shown(path: bytes) -> str:
    """The path for a message: undecodable and control bytes escaped."""
    return escaped(path.decode("utf-8", "backslashreplace"))


def check_link(path: bytes, target: bytes) -> None:
    """Raises ContentRejected for a relative target that climbs out of the tree. Purely textual; nothing is opened."""
    if not target or b"\0" in target or len(target) > _MAXIMUM_TARGET:
        raise ContentRejected(f"The symbolic link {shown(path)} has no usable target.")
    if target.startswith(b"/"):
        return
    depth = path.count(b"/")
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
        elif part not in (b"", b"."):
            depth += 1
        if depth < 0:
            raise ContentRejected(f"The symbolic link {shown(path)} → {shown(target)} leaves the tree.")


def check_path(path: bytes) -> list[bytes]:
    """The path's parts. Raises ContentRejected unless it is relative and plain."""
    parts = path.split(b"/")
    if b"\0" in path or any(part in (b"", b".", b"..") or len(part) > 255 for part in parts):
        raise ContentRejected(f"The path {shown(path)!r} is not a plain path inside the tree.")
    if len(parts) > MAXIMUM_DEPTH:
        raise ContentRejected(f"{shown(path[:200])}… is nested deeper than {MAXIMUM_DEPTH} directories.")
    return parts


def disk_bytes(size: int) -> int:
    """What an entry takes on disk: whole blocks of 4 KiB, of which the inode's share is the first."""
    return 4096 + (size + 4095) // 4096 * 4096 if size else 4096


# --- tar headers ---


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def _header(kind: bytes, name: bytes, mode: int, size: int, mtime: int, target: bytes) -> bytes:
    device = _octal(0, 8) * 2 if kind == b"3" else b"\0" * 16
    head = b"".join(
        (
            name[:100].ljust(100, b"\0"),
            _octal(mode, 8),
            b"0000000\x000000000\0",
            _octal(size if size <= MAXIMUM_USTAR else 0, 12),
            _octal(mtime, 12),
        )
    )
    tail = kind + target[:100].ljust(100, b"\0") + b"ustar\x0000" + b"\0" * 64 + device + b"\0" * 167
    checksum = sum(head) + sum(tail) + 8 * 32
    return b"%b%06o\0 %b" % (head, checksum, tail)


def _record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %b=%b\n" % (length, key, value)


def headers_of(entry: Entry) -> list[bytes]:
    """The entry's header block, preceded by a PAX header (block and body) where one is needed."""
    records: list[bytes] = []
    if len(entry.path) > 100:
        records.append(_record(b"path", entry.path))
    if len(entry.target) > 100:
        records.append(_record(b"linkpath", entry.target))
    if entry.size > MAXIMUM_USTAR:
        records.append(_record(b"size", b"%d" % entry.size))
    if entry.is_opaque:
        records.append(_record(_PAX_OPAQUE, b"y"))
    main = _header(entry.kind, entry.path, entry.mode, entry.size, entry.mtime, entry.target)
    if not records:
        return [main]
    body = b"".join(records)
    return [_header(b"x", b"pax", 0o644, len(body), 0, b""), body + b"\0" * (-len(body) % BLOCK), main]


class Digest:
    """SHA-256 of a tar stream without modification times and header checksums (bytes 136 to 155 of a header)."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.data = self._hash.update

    def header(self, block: bytes) -> None:
        self._hash.update(block[:136])
        self._hash.update(block[156:])

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


# --- reading ---


def number(field: bytes) -> int:
    digits = field.strip(b"\0 ")
    if not digits or digits.strip(b"01234567"):
        raise ContentRejected("A number in a header is malformed.")
    return int(digits, 8)


def parse_records(body: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    while body:
        length_text, separator, _ = body.partition(b" ")
        is_number = length_text.isdigit() and len(length_text) <= _MAXIMUM_DIGITS
        if not separator or not is_number or not len(length_text) + 3 <= int(length_text) <= len(body):
            raise ContentRejected("An extended header is malformed.")
        length = int(length_text)
        key, separator, value = body[len(length_text) + 1 : length].partition(b"=")
        if not separator or not value.endswith(b"\n"):
            raise ContentRejected("An extended header is malformed.")
        records[key] = value[:-1]
        body = body[length:]
    return records


def parse_entry(block: bytes, extended: dict[bytes, bytes]) -> Entry:
    kind = block[156:157]
    if kind not in (b"0", b"2", b"3", b"5"):
        raise ContentRejected(f"An entry has the unknown type {kind!r}.")
    if kind == b"3" and (number(block[329:337]), number(block[337:345])) != (0, 0):
        raise ContentRejected("The tarball holds a device.")
    size = extended.get(b"size")
    if size is not None and not (size.isdigit() and len(size) <= _MAXIMUM_DIGITS):
        raise ContentRejected("A size is malformed.")
    entry = Entry(
        kind=kind,
        path=extended.get(b"path", block[:100].rstrip(b"\0")),
        mode=number(block[100:108]) & 0o777,
        size=number(block[124:136]) if size is None else int(size),
        mtime=number(block[136:148]),
        target=extended.get(b"linkpath", block[157:257].rstrip(b"\0")),
        is_opaque=_PAX_OPAQUE in extended,
    )
    if entry.size and kind != b"0":
        raise ContentRejected(f"{shown(entry.path)} has content though it is no file.")
    return entry
