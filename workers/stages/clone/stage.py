"""clone: fetches exactly one commit and keeps its tree, without history, as a snapshot."""

from __future__ import annotations

import os
import re
import stat
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from shared.errors import Cancelled, FailureCode, StageFailure
from shared.network.address_policy import AddressPolicy
from shared.projects.credential_repository import RepositoryCredentialRepository
from shared.projects.repository_url import RepositoryPolicy, RepositoryUrl
from shared.settings import Settings
from shared.text.written import written_text
from workers.executors.cgroups import ControlGroups, discover_control_groups
from workers.filesystem.descent import opened_below
from workers.filesystem.trees import remove_tree
from workers.pipeline.cache_key import cache_key
from workers.pipeline.outputs import CloneOutput
from workers.pipeline.stage import NothingToBuild, StageContext, StageFunction, StageParts, StageResult
from workers.reading.reader import ContentReader
from workers.snapshots.index import SnapshotIndex, SnapshotRecord
from workers.snapshots.store import SnapshotMissing, SnapshotStore
from workers.snapshots.tar_format import MAXIMUM_DEPTH, is_of_the_tree
from workers.stages.clone.access import RepositoryAccess
from workers.stages.clone.addresses import parse_for_clone
from workers.stages.clone.confinement import Confinement
from workers.stages.clone.fetch import RemoteRepository
from workers.stages.clone.git import Git, GitLimits
from workers.stages.clone.git_failures import ProxyUnusable
from workers.stages.clone.ignored import IgnoredBuilds
from workers.stages.clone.lfs import LfsFetcher
from workers.stages.clone.submodules import SubmoduleFetcher

if TYPE_CHECKING:
    from workers.stages.clone.proxy import CloneProxy

KIND = "source"
# From this attempt on a broken contact is told to the user instead of being tried once more.
_LAST_ATTEMPT = 3
_MAXIMUM_MESSAGE = 1000
_FULL_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def build(parts: StageParts) -> CloneStage:
    return CloneStage(
        parts.snapshots(),
        SnapshotIndex(parts.database),
        parts.settings,
        IgnoredBuilds(parts.deployments),
        RepositoryCredentialRepository(parts.database),
        discover_control_groups(),
    )


class CloneStage(StageFunction):
    """Safe between threads."""

    def __init__(
        self,
        snapshots: SnapshotStore,
        index: SnapshotIndex,
        settings: Settings,
        ignored: IgnoredBuilds,
        host_keys: RepositoryCredentialRepository,
        control_groups: ControlGroups | None = None,
    ) -> None:
        """`control_groups` None: the limits of git are kept by watching it, only approximately."""
        self._snapshots = snapshots
        self._index = index
        self._ignored = ignored
        self._reader = ContentReader()
        self._host_keys = host_keys
        self._addresses = AddressPolicy(settings.network.egress_allowed_networks)
        self._control_groups = control_groups
        self._network = settings.network
        self._certificates: Path | None = None
        if settings.network.ca_bundle is not None:
            from workers.executors.environment import gather_certificates

            self._certificates = gather_certificates(
                settings.network, os.environ, settings.directories.home / "run" / "clones"
            )

    def run(self, context: StageContext) -> StageResult[CloneOutput]:
        deployment, log = context.deployment, context.log
        policy = RepositoryPolicy(self._addresses, allows_files=deployment.allows_files)
        url = parse_for_clone(deployment.repository_url, policy)
        log.system(f"Cloning {url.public}, " + _wanted(deployment.branch, deployment.commit_sha) + ".")
        with ExitStack() as stack:
            proxy = stack.enter_context(self._opened_proxy())
            credentials, directory = context.credentials, context.directory
            confined = Confinement.opened(self._control_groups, deployment.id, context.limits)
            confinement = stack.enter_context(confined)
            opened = RepositoryAccess.opened(
                url, deployment.project_id, credentials, self._host_keys, directory, policy, proxy
            )
            try:
                return self._run(context, self._git(context, confinement), stack.enter_context(opened), url)
            except ProxyUnusable as error:
                log.system(str(error))
                raise

    def _opened_proxy(self) -> AbstractContextManager[CloneProxy | None]:
        if not self._network.egress_proxy:
            return nullcontext()
        from workers.stages.clone.proxy import CloneProxy

        return CloneProxy.opened(self._network)

    def _run(
        self, context: StageContext, git: Git, access: RepositoryAccess, url: RepositoryUrl
    ) -> StageResult[CloneOutput]:
        deployment = context.deployment
        remote = RemoteRepository.connect(
            git,
            access,
            url,
            context.log,
            context.cancelled,
            is_last_attempt=context.attempt >= _LAST_ATTEMPT,
        )
        sha = deployment.commit_sha
        if sha is None:
            sha = remote.resolve_branch(deployment.branch, context.directory)
            context.log.system(f"Branch {deployment.branch} is at commit {sha[:12]}.")
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
        clone = _Clone(git, access, remote, url)
        try:
            return self._fetch(context, clone, sha)
        except StageFailure as failure:
            moved = self._find_moved(context, remote, sha) if failure.code is FailureCode.COMMIT_NOT_FOUND else None
            if moved is None:
                raise
        remove_tree(context.directory / "source")
        return self._fetch(context, clone, moved)

    def _find_moved(self, context: StageContext, remote: RemoteRepository, sha: str) -> str | None:
        """Where the branch is after a force-push took away the commit that it had a moment ago."""
        if context.deployment.commit_sha is not None:
            return None
        moved = remote.resolve_branch(context.deployment.branch, context.directory)
        if moved == sha:
            return None
        context.log.system(
            f"Commit {sha[:12]} was replaced by a force-push meanwhile; branch {context.deployment.branch} is at "
            f"commit {moved[:12]} now."
        )
        return moved

    def _end_if_unchanged(self, context: StageContext, git: Git, remote: RemoteRepository, sha: str) -> None:
        """Raises NothingToBuild."""
        directory = context.directory / "comparison"
        directory.mkdir()
        reason = self._ignored.find_reason(context.deployment, git, remote, sha, directory)
        if reason is not None:
            raise NothingToBuild(reason)

    def _git(self, context: StageContext, confinement: Confinement) -> Git:
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
            confinement=confinement,
            certificates=self._certificates,
        )

    def _fetch(self, context: StageContext, clone: _Clone, sha: str) -> StageResult[CloneOutput]:
        git, remote = clone.git, clone.remote
        tree = context.directory / "source"
        tree.mkdir()
        branch = context.deployment.branch if context.deployment.commit_sha is None else None
        remote.fetch(sha, tree, branch)
        commit, message = _commit(git, tree, sha)
        self._fetch_content(context, clone, tree)
        git.check_size()
        check_root_directory(tree, context.deployment.root_directory)
        remove_repositories(tree)
        if context.cancelled.is_set():
            raise Cancelled
        snapshot = self._snapshots.save(context.deployment.tenant_id, tree)
        output = CloneOutput(source=snapshot.digest, commit_sha=commit, commit_message=message)
        components = _components(clone.url, sha)
        self._index.record(
            tenant_id=context.deployment.tenant_id,
            scope=context.deployment.project_id,
            kind=KIND,
            key=cache_key(components),
            group=context.deployment.project_id,
            digest=snapshot.digest,
            size_bytes=snapshot.size_bytes,
            components=components,
            output=msgspec.to_builtins(output),
        )
        context.log.system(f"Fetched commit {commit[:12]}: {message.partition(chr(10))[0]}")
        return _result(output, is_cache_hit=False)

    def _cached(self, context: StageContext, url: RepositoryUrl, sha: str) -> StageResult[CloneOutput] | None:
        """The result of an earlier clone of the commit, if its snapshot is still there."""
        deployment = context.deployment
        record = self._index.find(deployment.tenant_id, [deployment.project_id], KIND, cache_key(_components(url, sha)))
        if record is None or not self._is_usable(context, record):
            return None
        self._index.touch(deployment.tenant_id, record)
        context.log.system(f"Commit {sha[:12]} was fetched before; using its snapshot.")
        return _result(msgspec.convert(record.output, CloneOutput), is_cache_hit=True)

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

    def _fetch_content(self, context: StageContext, clone: _Clone, tree: Path) -> None:
        """What the commit only names: files in LFS, and submodules with theirs."""
        is_last = context.attempt >= _LAST_ATTEMPT
        log, cancelled = context.log, context.cancelled
        reader, directory = self._reader, context.directory
        lfs = LfsFetcher(clone.git, clone.access, log, cancelled, directory, reader=reader, is_last_attempt=is_last)
        lfs.fetch(clone.remote.url, clone.remote.route, tree)
        submodules = SubmoduleFetcher(clone.git, clone.access, lfs, log, cancelled, is_last_attempt=is_last)
        submodules.fetch(clone.remote.url, tree)


@dataclass(frozen=True, slots=True)
class _Clone:
    """What one run clones with. `url` is the deployment's, `remote.url` what became of it."""

    git: Git
    access: RepositoryAccess
    remote: RemoteRepository
    url: RepositoryUrl


def _wanted(branch: str, sha: str | None) -> str:
    return f"branch {branch}" if sha is None else f"commit {sha[:12]}"


def _components(url: RepositoryUrl, sha: str) -> dict[str, str]:
    # Snapshots of earlier versions, which kept the pointers, are no longer found.
    return {"repository": url.public, "commit": sha, "lfs": "content"}


def _result(output: CloneOutput, *, is_cache_hit: bool) -> StageResult[CloneOutput]:
    facts = {"commit_sha": output.commit_sha, "commit_message": output.commit_message}
    return StageResult(output=output, is_cache_hit=is_cache_hit, facts=facts)


def _commit(git: Git, tree: Path, sha: str) -> tuple[str, str]:
    """The commit's own SHA, where `sha` is an annotated tag's, and its message."""
    commit, _, body = git.read_message(sha, tree, header="%H").partition("\n")
    return commit, written_text(body.strip()[:_MAXIMUM_MESSAGE])


def check_root_directory(tree: Path, root_directory: str) -> None:
    """Raises StageFailure unless the directory is in the tree; a link doesn't count, as it could lead out of it."""
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
