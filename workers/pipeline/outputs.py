"""The base of what stages record for later ones, and what several of them record. See `workers/pipeline/table.py`."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class Tool:
    """A package manager or runtime that a project asks for. `digest` names its snapshot."""

    name: str
    version: str
    digest: str


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the outputs of stages."""
