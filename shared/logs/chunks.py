"""The format of a chunk in PostgreSQL: a msgpack array of entries, compressed with zstd."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import msgspec
import zstandard

from schemas.logs import LogEntry

_COMPRESSION_LEVEL = 3


class ChunkCodec:
    """Safe from any thread."""

    def __init__(self) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(list[LogEntry])
        # zstd contexts are expensive to create and not thread-safe, so each thread has its own pair.
        self._contexts = threading.local()

    def encode(self, entries: Sequence[LogEntry]) -> bytes:
        if not hasattr(self._contexts, "compressor"):
            self._contexts.compressor = zstandard.ZstdCompressor(level=_COMPRESSION_LEVEL)
        return self._contexts.compressor.compress(self._encoder.encode(entries))

    def decode(self, data: bytes) -> list[LogEntry]:
        if not hasattr(self._contexts, "decompressor"):
            self._contexts.decompressor = zstandard.ZstdDecompressor()
        return self._decoder.decode(self._contexts.decompressor.decompress(data))
