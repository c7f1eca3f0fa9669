"""Repositories that no work tree makes: their objects are written one by one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.repositories import git


def write_object(directory: Path, kind: str, content: bytes) -> str:
    """Returns the object's SHA."""
    command = ["git", "hash-object", "-t", kind, "-w", "--stdin", "--literally"]
    done = subprocess.run(command, cwd=directory, input=content, capture_output=True, check=True)
    return done.stdout.decode().strip()


def tree(entries: list[tuple[str, str, str]]) -> bytes:
    """The content of a tree object; entries are (mode, name, SHA)."""
    return b"".join(f"{mode} {name}\0".encode() + bytes.fromhex(sha) for mode, name, sha in entries)


def commit_tree(directory: Path, sha: str, branch: str = "main") -> str:
    """A commit of the tree, which the branch is set to."""
    made = git(directory, "commit-tree", "-m", "A tree", sha)
    git(directory, "update-ref", f"refs/heads/{branch}", made)
    return made


def nested_trees(directory: Path, *, width: int, depth: int, leaf: bytes | None = b"x") -> str:
    """A commit with `width`^`depth` paths from `depth` + 1 objects; `leaf` None: of directories alone."""
    sha = write_object(directory, "tree", b"") if leaf is None else write_object(directory, "blob", leaf)
    mode = "40000" if leaf is None else "100644"
    for _ in range(depth):
        sha = write_object(directory, "tree", tree([(mode, f"d{number}", sha) for number in range(width)]))
        mode = "40000"
    return commit_tree(directory, sha)
