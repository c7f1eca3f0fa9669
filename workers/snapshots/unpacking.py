"""Unpacks a tarball into a directory and trusts nothing in it; `tar_format.py` describes it."""

from __future__ import annotations

import io
from pathlib import Path

import zstandard

from workers.snapshots.tar_format import CHUNK, ContentRejected, Packed
from workers.snapshots.tree_reader import read_tree


def unpack(tarball: Path, directory: Path, *, maximum_bytes: int) -> Packed:
    """Fills the empty directory; nothing outside of it can be touched. Returns what `pack` returned for the tarball.

    Raises ContentRejected for a tarball that is damaged, not canonical or larger than `maximum_bytes`; the directory
    then holds a part of it. The caller compares the digest before it uses the tree.
    """
    try:
        with tarball.open("rb") as raw:
            decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 27)
            stream = decompressor.stream_reader(raw, read_across_frames=False)
            buffered = io.BufferedReader(stream, CHUNK)  # pyright: ignore[reportArgumentType]
            return read_tree(buffered, directory, maximum_bytes=maximum_bytes)
    except zstandard.ZstdError as error:
        raise ContentRejected(f"The tarball is damaged: {error}.") from error
