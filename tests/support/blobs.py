"""A reader of blobs for tests of publishers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class LocalBlobs:
    """A BlobReader of files that are here already, which counts how often it is asked. Digest → file."""

    files: dict[str, Path]
    asked: int = 0

    def local_files(self) -> dict[str, Path]:
        self.asked += 1
        return self.files
