"""Keys of the objects that are named by their content: snapshots, manifests and blobs, apart for each tenant."""

from __future__ import annotations

import re

_TENANT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def check_names(tenant_id: str, digest: str) -> None:
    """Raises ValueError unless both are fit to be parts of a path and of an object's key."""
    if not _TENANT.fullmatch(tenant_id) or not _DIGEST.fullmatch(digest):
        raise ValueError(f"Not a tenant and a digest: {tenant_id!r}, {digest!r}.")


def is_digest(text: str) -> bool:
    return _DIGEST.fullmatch(text) is not None


def snapshot_key(tenant_id: str, digest: str) -> str:
    """Raises ValueError for an invalid tenant or digest, as the following functions do."""
    check_names(tenant_id, digest)
    return f"snapshots/{tenant_id}/{digest}.tar.zst"


def manifest_key(tenant_id: str, digest: str) -> str:
    check_names(tenant_id, digest)
    return f"manifests/{tenant_id}/{digest}.json"


def blob_key(tenant_id: str, digest: str) -> str:
    check_names(tenant_id, digest)
    return f"blobs/{tenant_id}/{digest}"
