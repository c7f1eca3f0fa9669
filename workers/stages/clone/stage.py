"""clone: fetches exactly one commit and keeps its tree, without history, as a snapshot."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from shared.deployments.branch_repository import BranchRepository
from shared.deployments.former_repository import FormerDeploymentRepository
from shared.errors import FailureCode, StageFailure
from shared.projects.credential_repository import RepositoryCredentialRepository
from shared.projects.repository_url import RepositoryUrl
from shared.settings import Settings
from workers.executors.cgroups import ControlGroups, discover_control_groups
from workers.filesystem.trees import remove_tree
from workers.pipeline.cache_key import cache_key
from workers.pipeline.stage import StageContext, StageFunction, StageParts, StageResult
from workers.pipeline.table import CloneOutput
from workers.snapshots.index import SnapshotIndex, SnapshotRecord
from workers.snapshots.store import SnapshotMissing, SnapshotStore
from workers.stages.clone.branches import BranchFinder, Tip
from workers.stages.clone.checkout import Commit, check_out, check_root_directory
from workers.stages.clone.fetch import RemoteRepository
from workers.stages.clone.ignored import IgnoredBuilds
from workers.stages.clone.session import CloneSession, CloneSessions

KIND = "source"
_FULL_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def build(parts: StageParts) -> CloneStage:
    return CloneStage(
        parts.snapshots(),
        SnapshotIndex(parts.database),
        parts.settings,
        IgnoredBuilds(FormerDeploymentRepository(parts.database)),
        RepositoryCredentialRepository(parts.database),
        BranchRepository(parts.database),
        discover_control_groups(),
    )


@dataclass(frozen=True, slots=True)
class _Target:
    """`branch`: the one whose newest commit it was; None for a commit that was asked for by SHA."""

    sha: str
    branch: str | None


class CloneStage(StageFunction):
    """Safe between threads."""

    def __init__(
        self,
        snapshots: SnapshotStore,
        index: SnapshotIndex,
        settings: Settings,
        ignored: IgnoredBuilds,
        host_keys: RepositoryCredentialRepository,
        branches: BranchRepository,
        control_groups: ControlGroups | None = None,
    ) -> None:
        """`control_groups`: as for `CloneSessions`."""
        self._snapshots = snapshots
        self._index = index
        self._ignored = ignored
        self._branches = branches
        self._sessions = CloneSessions(settings, host_keys, control_groups)

    def run(self, context: StageContext) -> StageResult[CloneOutput]:
        """The steps of a clone. Each may end it by raising StageFailure, NothingToBuild, PlatformError or Cancelled."""
        deployment = context.deployment
        with self._sessions.open(context) as session:
            remote = RemoteRepository.connect(session, session.url)
            target = self._find_target(session, remote)
            if deployment.if_changed and not deployment.clean:
                self._ignored.check(session, remote, target.sha)
            cached = None if deployment.clean else self._find_cached(session, target.sha)
            if cached is not None:
                return cached
            return self._save(session, _fetch(session, remote, target))

    def _find_target(self, session: CloneSession, remote: RemoteRepository) -> _Target:
        """What to fetch, and the default branch recorded if the server has said it. Raises StageFailure."""
        deployment, log = session.deployment, session.log
        finder = BranchFinder(remote, session.directory, deployment.project_slug)
        if deployment.commit_sha is not None:
            sha = _full_sha(deployment.commit_sha)
            if deployment.branch is None:
                self._find_label(session, finder)
            return _Target(sha, None)
        if deployment.branch is None:
            tip = finder.find_default()
            log.system(tip.remark or f"No branch is named, so the repository's default branch is used: {tip.branch}.")
            self._record_default(session, tip.branch)
        else:
            tip = finder.find(deployment.branch)
            if tip.default is not None:
                self._record_default(session, tip.default)
        log.system(f"Branch {tip.branch} is at commit {tip.sha[:12]}.")
        return _Target(tip.sha, tip.branch)

    def _find_label(self, session: CloneSession, finder: BranchFinder) -> None:
        """The branch of a deployment that has a commit but no branch. It can do without."""
        try:
            tip = finder.find_default()
        except StageFailure as failure:
            session.log.system(f"The deployment is of no branch: {failure.message}")
        else:
            session.log.system(f"No branch is named; the repository's default branch is {tip.branch}.")
            self._record_default(session, tip.branch)

    def _record_default(self, session: CloneSession, branch: str) -> None:
        # At once: the deployment shows it while it is cloned, and if that fails.
        self._branches.record_default(session.deployment.id, branch, fence=session.context.fence)

    def _save(self, session: CloneSession, fetched: Commit) -> StageResult[CloneOutput]:
        context, commit, message = session.context, fetched.sha, fetched.message
        snapshot = self._snapshots.save(context.deployment.tenant_id, session.source)
        output = CloneOutput(source=snapshot.digest, commit_sha=commit, commit_message=message)
        components = _components(session.url, fetched.requested)
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

    def _find_cached(self, session: CloneSession, sha: str) -> StageResult[CloneOutput] | None:
        """The result of an earlier clone of the commit, if its snapshot still exists."""
        deployment, key = session.deployment, cache_key(_components(session.url, sha))
        record = self._index.find(deployment.tenant_id, [deployment.project_id], KIND, key)
        if record is None or not self._is_usable(session.context, record):
            return None
        self._index.touch(deployment.tenant_id, record)
        session.log.system(f"Commit {sha[:12]} was fetched before; using its snapshot.")
        return _result(msgspec.convert(record.output, CloneOutput), is_cache_hit=True)

    def _is_usable(self, context: StageContext, record: SnapshotRecord) -> bool:
        deployment = context.deployment
        try:
            if deployment.root_directory in ("", "."):
                return self._snapshots.exists(deployment.tenant_id, record.digest)
            # The project's root directory may have changed since.
            with self._snapshots.attach(deployment.tenant_id, record.digest) as tree:
                check_root_directory(tree, deployment.root_directory)
        except SnapshotMissing:
            return False
        return True


def _full_sha(commit_sha: str) -> str:
    if not _FULL_SHA.fullmatch(commit_sha):
        raise StageFailure(
            FailureCode.COMMIT_NOT_FOUND,
            f"{commit_sha!r} is not a full commit SHA; give all 40 hexadecimal digits.",
        )
    return commit_sha


def _fetch(session: CloneSession, remote: RemoteRepository, target: _Target) -> Commit:
    """Fetches the commit, or the branch's new one if a force-push removes it meanwhile."""
    try:
        return check_out(session, remote, target.sha, target.branch)
    except StageFailure as failure:
        moved = _find_moved(session, remote, target) if failure.code is FailureCode.COMMIT_NOT_FOUND else None
        if moved is None:
            raise
    remove_tree(session.source)
    return check_out(session, remote, moved.sha, moved.branch)


def _find_moved(session: CloneSession, remote: RemoteRepository, target: _Target) -> Tip | None:
    """The branch as it is now if a force-push has removed the commit. None if that was asked for by SHA."""
    if target.branch is None:
        return None
    moved = BranchFinder(remote, session.directory, session.deployment.project_slug).find(target.branch)
    if moved.sha == target.sha:
        return None
    session.log.system(
        f"Commit {target.sha[:12]} was replaced by a force-push; branch {moved.branch} is at commit {moved.sha[:12]}"
        " now."
    )
    return moved


def _components(url: RepositoryUrl, sha: str) -> dict[str, str]:
    # "lfs" keeps snapshots of earlier versions from being found: they hold pointers instead of content.
    return {"repository": url.public, "commit": sha, "lfs": "content"}


def _result(output: CloneOutput, *, is_cache_hit: bool) -> StageResult[CloneOutput]:
    facts = {"commit_sha": output.commit_sha, "commit_message": output.commit_message}
    return StageResult(output=output, is_cache_hit=is_cache_hit, facts=facts)
