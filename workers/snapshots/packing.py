"""Packs a directory into a tarball; `tar_format.py` describes it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import zstandard

from workers.filesystem.descent import open_directory
from workers.snapshots.tar_format import Packed
from workers.snapshots.tree_writer import walk, write_tree

# Level 3 compresses dependencies three to four times at some 200 MB/s a thread; higher ones cost more than they save.
_LEVEL = 3


def pack(directory: Path, tarball: Path, *, maximum_bytes: int, threads: int = 2) -> Packed:
    """Writes `tarball` from the directory's content, reading each file once; it is not forced to the disk.

    Raises ContentRejected for what can't be carried, and when the tree takes more than `maximum_bytes`. Nobody may
    write to the directory meanwhile.
    """
    root = open_directory(directory)
    try:
        # A directory that its owner may not write to can't be moved to another parent afterwards.
        os.fchmod(root, stat.S_IMODE(os.fstat(root).st_mode) | 0o700)
        with tarball.open("xb") as raw:
            compressor = zstandard.ZstdCompressor(level=_LEVEL, threads=threads, write_checksum=True)
            stream = compressor.stream_writer(raw, closefd=False)
            packed = write_tree(walk(root), stream.write, maximum_bytes=maximum_bytes)
            stream.close()
            return packed
    finally:
        os.close(root)
