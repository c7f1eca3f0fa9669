"""Turns a commit into a deployment's source: its files, those in LFS and submodules, and none of git's own data."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from shared.errors import Cancelled, FailureCode, StageFailure
from shared.text.written import written_text
from workers.filesystem.descent import opened_below
from workers.filesystem.trees import remove_tree
from workers.snapshots.tar_format import MAXIMUM_DEPTH, is_of_the_tree
from workers.stages.clone.fetch import RemoteRepository
from workers.stages.clone.git.runner import Git
from workers.stages.clone.lfs.fetcher import LfsFetcher
from workers.stages.clone.session import CloneSession
from workers.stages.clone.submodules import SubmoduleFetcher

_MAXIMUM_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class Commit:
    """`sha` is the commit's own. `requested` is the SHA that was asked for, which may be an annotated tag's."""

    requested: str
    sha: str
    message: str


def check_out(session: CloneSession, remote: RemoteRepository, sha: str, branch: str | None) -> Commit:
    """Creates `session.source`. `branch`: the one that ends with the commit, if one is known to.

    Raises StageFailure, PlatformError or Cancelled.
    """
    deployment, tree = session.deployment, session.source
    tree.mkdir()
    remote.fetch(sha, tree, branch)
    commit = _read_commit(session.git, tree, sha)
    lfs = LfsFetcher(session)
    lfs.fetch(remote, tree)
    SubmoduleFetcher(session, lfs).fetch(remote.url, tree)
    session.git.check_size()
    check_root_directory(tree, deployment.root_directory)
    remove_repositories(tree)
    if session.cancelled.is_set():
        raise Cancelled
    return commit


def _read_commit(git: Git, tree: Path, sha: str) -> Commit:
    commit, _, body = git.read_message(sha, tree, header="%H").partition("\n")
    return Commit(sha, commit, written_text(body.strip()[:_MAXIMUM_MESSAGE]))


def check_root_directory(tree: Path, root_directory: str) -> None:
    """Raises StageFailure unless the directory is in the tree. Links don't count, because they could lead out of it."""
    try:
        with opened_below(tree, root_directory):
            pass
    except OSError as error:
        if not is_of_the_tree(error):
            raise
        raise StageFailure(
            FailureCode.ROOT_DIRECTORY_NOT_FOUND,
            f"The repository has no directory {root_directory!r}; a symbolic link doesn't count. Set the project's"
            " rootDirectory to one it has.",
        ) from None


def remove_repositories(tree: Path) -> None:
    """Deletes git's own data, including that of submodules: history and addresses are not part of the source."""
    for directory, names, files in os.walk(tree):
        if directory.count("/") - str(tree).count("/") > MAXIMUM_DEPTH:
            # Saving the snapshot reports it. os.walk would hit Python's recursion limit first.
            names.clear()
        if ".git" in names:
            names.remove(".git")
            path = Path(directory, ".git")
            if stat.S_ISDIR(path.lstat().st_mode):
                remove_tree(path)
        if ".git" in files:
            Path(directory, ".git").unlink()
