"""Paths inside a build's pod. Standard library only."""

from __future__ import annotations

from pathlib import Path

# Code, request and certificates; each container has its own.
FILES = "/run/cloudify"
CODE, REQUEST, CERTIFICATES = "code.pyz", "request.json", "certificates"
# The trees and the notes about them; the command's container has neither, but the trees at their places.
TREES, STATE = "/trees", "/state"


def tree_directory(trees: Path, place: str) -> Path:
    return trees / place


def index_of(state: Path, place: str) -> Path:
    """How the files of a tree were before the command."""
    return state / f"{place}.index"
