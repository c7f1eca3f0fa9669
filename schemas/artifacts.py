"""An artifact: one immutable manifest that names content-addressed blobs."""

from __future__ import annotations

import hashlib

import msgspec


class ManifestFile(msgspec.Struct, frozen=True, kw_only=True):
    """`digest` is the SHA-256 of the content in hex; `variants` maps br, gzip, zstd to the digest of that encoding."""

    digest: str
    size: int
    content_type: str
    variants: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`files` maps a path relative to the site's root, with `/` between its parts, to its content."""

    files: dict[str, ManifestFile]
    version: int = 1

    def encode(self) -> bytes:
        """Canonical bytes: the same site gives the same digest on every machine."""
        return msgspec.json.encode(self, order="deterministic")

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.encode()).hexdigest()


class ArtifactLinks(msgspec.Struct, frozen=True, kw_only=True):
    """Where a site's pods download their artifact: the manifest, and a page of the blobs by digest.

    `next` asks for the following page; None after the last one.
    """

    manifest: str
    blobs: dict[str, str]
    next: int | None
