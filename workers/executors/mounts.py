"""Mounts of host directories in a sandbox on the same host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Bind:
    """A host directory or file shown at `target`; read-only unless `is_writable`."""

    source: Path
    target: str
    is_writable: bool = False


@dataclass(frozen=True, slots=True)
class OverlayMount:
    """`layers` (lowest first, all read-only) merged at `target`; changes go to `upper`.

    `upper` and `scratch` are empty directories on one filesystem.
    """

    target: str
    layers: tuple[Path, ...]
    upper: Path
    scratch: Path
