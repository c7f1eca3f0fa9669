"""clone: fetches exactly one commit and keeps its tree, without history, as a snapshot."""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from pathlib import Path
from typing import Any

from shared.errors import Cancelled, FailureCode, StageFailure
from shared.repositories.snapshots import SnapshotIndex, SnapshotRecord
from shared.repository_url import RepositoryUrl
from shared.settings import Settings
from workers.cache_key import cache_key
from workers.directories import remove_tree
from workers.git import Git, GitFailed, GitLimits
from workers.ignored_builds import Ignored, IgnoredBuilds
from workers.repository_fetch import RemoteRepository, SubmoduleFetcher, parse_for_clone
from workers.snapshots import SnapshotMissing, SnapshotStore
from workers.stage import StageContext, StageResult
from workers.tar_format import MAXIMUM_DEPTH

KIND = "source"
# From this attempt on a broken contact is told to the user instead of being tried once more.
_LAST_ATTEMPT = 3
_MAXIMUM_MESSAGE = 1000
_FULL_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LFS_POINTER = "version https://git-lfs.github.com/spec/v1"
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class CloneStage:
    """Safe between threads. Output: {"source": digest, "commitSha", "commitMessage"}."""

    def __init__(
        self, snapshots: SnapshotStore, index: SnapshotIndex, settings: Settings, ignored: IgnoredBuilds
    ) -> None:
        self._snapshots = snapshots
        self._index = index
        self._ignored = ignored
        self._allow_local = settings.allow_local_repositories

    def run(self, context: StageContext) -> StageResult:
        deployment, log = context.deployment, context.log
        url = parse_for_clone(deployment.repository_url, allow_local=self._allow_local)
        git = self._git(context)
        log.system(f"Cloning {url.public}, " + _wanted(deployment.branch, deployment.commit_sha) + ".")
        remote = RemoteRepository.connect(
            git,
            url,
            log,
            context.cancelled,
            allow_local=self._allow_local,
            is_last_attempt=context.attempt >= _LAST_ATTEMPT,
        )
        sha = deployment.commit_sha
        if sha is None:
            sha = remote.resolve_branch(deployment.branch, context.directory)
            log.system(f"Branch {deployment.branch} is at commit {sha[:12]}.")
        elif not _FULL_SHA.fullmatch(sha):
            raise StageFailure(
                FailureCode.COMMIT_NOT_FOUND, f"{sha!r} is not a full commit SHA; give all 40 hexadecimal digits."
            )
        if deployment.if_changed and not deployment.clean:
            self._end_if_unchanged(context, git, remote, sha)
        if not deployment.clean:
            cached = self._cached(context, url, sha)
            if cached is not None:
                return cached
        return self._fetch(context, git, remote, sha, url)

    def _end_if_unchanged(self, context: StageContext, git: Git, remote: RemoteRepository, sha: str) -> None:
        """Raises Ignored."""
        directory = context.directory / "comparison"
        directory.mkdir()
        reason = self._ignored.find_reason(context.deployment, git, remote, sha, directory)
        if reason is not None:
            raise Ignored(reason)

    def _git(self, context: StageContext) -> Git:
        limits = GitLimits(
            deadline=time.monotonic() + context.limits.stage_timeout_seconds,
            maximum_bytes=context.limits.disk_bytes,
            watched=context.directory,
        )
        return Git(
            context.directory,
            limits,
            context.cancelled,
            lambda line: context.log.write("stderr", line),
            allow_local=self._allow_local,
        )

    def _fetch(
        self, context: StageContext, git: Git, remote: RemoteRepository, sha: str, url: RepositoryUrl
    ) -> StageResult:
        tree = context.directory / "source"
        tree.mkdir()
        branch = context.deployment.branch if context.deployment.commit_sha is None else None
        remote.fetch(sha, tree, branch)
        message = _commit_message(git, tree, sha)
        self._report_pointers(context, git, tree)
        SubmoduleFetcher(
            git,
            context.log,
            context.cancelled,
            allow_local=self._allow_local,
            is_last_attempt=context.attempt >= _LAST_ATTEMPT,
        ).fetch(remote.url, tree)
        git.check_size()
        check_root_directory(tree, context.deployment.root_directory)
        remove_repositories(tree)
        if context.cancelled.is_set():
            raise Cancelled
        snapshot = self._snapshots.save(context.deployment.tenant_id, tree)
        output = {"source": snapshot.digest, "commitSha": sha, "commitMessage": message}
        components = _components(url, sha)
        self._index.record(
            tenant_id=context.deployment.tenant_id,
            scope=context.deployment.project_id,
            kind=KIND,
            key=cache_key(components),
            group=context.deployment.project_id,
            digest=snapshot.digest,
            size_bytes=snapshot.size_bytes,
            components=components,
            output=output,
        )
        context.log.system(f"Fetched commit {sha[:12]}: {message.partition(chr(10))[0]}")
        return _result(output, is_cache_hit=False)

    def _cached(self, context: StageContext, url: RepositoryUrl, sha: str) -> StageResult | None:
        """The result of an earlier clone of the commit, if its snapshot is still there."""
        deployment = context.deployment
        record = self._index.find(deployment.tenant_id, [deployment.project_id], KIND, cache_key(_components(url, sha)))
        if record is None or not self._is_usable(context, record):
            return None
        self._index.touch(deployment.tenant_id, record)
        context.log.system(f"Commit {sha[:12]} was fetched before; using its snapshot.")
        return _result(record.output, is_cache_hit=True)

    def _is_usable(self, context: StageContext, record: SnapshotRecord) -> bool:
        deployment = context.deployment
        try:
            if deployment.root_directory in ("", "."):
                return self._snapshots.exists(deployment.tenant_id, record.digest)
            # The root directory may have been changed since.
            with self._snapshots.attach(deployment.tenant_id, record.digest) as tree:
                check_root_directory(tree, deployment.root_directory)
        except SnapshotMissing:
            return False
        return True

    def _report_pointers(self, context: StageContext, git: Git, tree: Path) -> None:
        """Says so when files are in LFS: what is checked out then are pointers, not their content."""
        # git grep exits 1 when it finds none.
        with contextlib.suppress(GitFailed):
            found = git.run(["grep", "--cached", "-l", "-z", "-F", "-e", _LFS_POINTER], tree, is_silent=True)
            names = [name for name in found.decode("utf-8", "replace").split("\0") if name]
            context.log.system(
                f"{len(names)} files are Git LFS pointers, whose content is not fetched: {', '.join(names[:5])}"
                + (", …" if len(names) > 5 else ".")
            )


def _wanted(branch: str, sha: str | None) -> str:
    return f"branch {branch}" if sha is None else f"commit {sha[:12]}"


def _components(url: RepositoryUrl, sha: str) -> dict[str, str]:
    # LFS content isn't fetched; when it is, this changes, and pointers that were kept are no longer found.
    return {"repository": url.public, "commit": sha, "lfs": "pointers"}


def _result(output: dict[str, Any], *, is_cache_hit: bool) -> StageResult:
    facts = {"commit_sha": str(output["commitSha"]), "commit_message": str(output["commitMessage"])}
    return StageResult(output=output, is_cache_hit=is_cache_hit, facts=facts)


def _commit_message(git: Git, tree: Path, sha: str) -> str:
    raw = git.run(["log", "-1", "--no-show-signature", "--format=%B", "--encoding=UTF-8", sha], tree)
    text = raw.decode("utf-8", "replace").strip()[:_MAXIMUM_MESSAGE]
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def check_root_directory(tree: Path, root_directory: str) -> None:
    """Raises StageFailure unless the directory is in the tree; a link doesn't count, as it could lead out of it."""
    descriptor = os.open(tree, _OPEN_DIRECTORY)
    try:
        for part in root_directory.split("/"):
            if part in ("", "."):
                continue
            if part == ".." or "\0" in part:
                raise OSError
            child = os.open(part, _OPEN_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = child
    except OSError:
        raise StageFailure(
            FailureCode.ROOT_DIRECTORY_NOT_FOUND,
            f"The repository has no directory {root_directory!r}. Set the project's rootDirectory to one it has.",
        ) from None
    finally:
        os.close(descriptor)


def remove_repositories(tree: Path) -> None:
    """Deletes git's own data, of the submodules as well; their history and addresses are no part of the source."""
    for directory, names, files in os.walk(tree):
        if directory.count("/") - str(tree).count("/") > MAXIMUM_DEPTH:
            # No snapshot takes it, and saving says so; os.walk would run into Python's own limit first.
            names.clear()
        if ".git" in names:
            names.remove(".git")
            path = Path(directory, ".git")
            if stat.S_ISDIR(path.lstat().st_mode):
                remove_tree(path)
        if ".git" in files:
            Path(directory, ".git").unlink()
