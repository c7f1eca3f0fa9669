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


class ManifestRedirect(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """See RedirectRule in workers/frameworks/site_files/routing.py."""

    path: str
    target: str
    status: int
    is_forced: bool = False


class ManifestHeaders(msgspec.Struct, frozen=True, kw_only=True):
    path: str
    headers: dict[str, str]


class ManifestServing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the site is served. `is_application`: `index.html` is shown for paths that the site doesn't have."""

    is_application: bool = False
    redirects: list[ManifestRedirect] = []
    headers: list[ManifestHeaders] = []


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`files` maps a path relative to the site's root, with `/` between its parts, to its content. `serving` is None in
    manifests from before it was recorded.
    """

    files: dict[str, ManifestFile]
    version: int = 1
    serving: ManifestServing | None = None

    def encode(self) -> bytes:
        """Canonical bytes: the same site gives the same digest on every machine."""
        fields: dict[str, object] = {"files": self.files, "version": self.version}
        # The digest of an older manifest is the one of its own bytes.
        if self.serving is not None:
            fields["serving"] = self.serving
        return msgspec.json.encode(fields, order="deterministic")

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
