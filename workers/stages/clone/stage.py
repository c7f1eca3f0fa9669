"""clone: fetches exactly one commit and keeps its tree, without history, as a snapshot."""

from __future__ import annotations

import re

import msgspec

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
        """`control_groups`: as for `CloneSessions`."""
        self._snapshots = snapshots
        self._index = index
        self._ignored = ignored
        self._sessions = CloneSessions(settings, host_keys, control_groups)

    def run(self, context: StageContext) -> StageResult[CloneOutput]:
        """The steps of a clone. Each may end it by raising StageFailure, NothingToBuild, PlatformError or Cancelled."""
        deployment = context.deployment
        with self._sessions.open(context) as session:
            remote = RemoteRepository.connect(session, session.url)
            sha = _find_commit(session, remote)
            if deployment.if_changed and not deployment.clean:
                self._ignored.check(session, remote, sha)
            cached = None if deployment.clean else self._find_cached(session, sha)
            if cached is not None:
                return cached
            return self._save(session, _fetch(session, remote, sha))

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


def _find_commit(session: CloneSession, remote: RemoteRepository) -> str:
    """Returns the SHA to fetch: the deployment's, or its branch's newest. Raises StageFailure."""
    deployment = session.deployment
    if deployment.commit_sha is None:
        sha = remote.resolve_branch(deployment.branch, session.directory)
        session.log.system(f"Branch {deployment.branch} is at commit {sha[:12]}.")
        return sha
    if not _FULL_SHA.fullmatch(deployment.commit_sha):
        raise StageFailure(
            FailureCode.COMMIT_NOT_FOUND,
            f"{deployment.commit_sha!r} is not a full commit SHA; give all 40 hexadecimal digits.",
        )
    return deployment.commit_sha


def _fetch(session: CloneSession, remote: RemoteRepository, sha: str) -> Commit:
    """Fetches the commit, or the branch's new one if a force-push removes it meanwhile."""
    try:
        return check_out(session, remote, sha)
    except StageFailure as failure:
        moved = _find_moved(session, remote, sha) if failure.code is FailureCode.COMMIT_NOT_FOUND else None
        if moved is None:
            raise
    remove_tree(session.source)
    return check_out(session, remote, moved)


def _find_moved(session: CloneSession, remote: RemoteRepository, sha: str) -> str | None:
    """The branch's new commit if a force-push has removed `sha`. None if the commit was asked for by SHA."""
    branch = session.deployment.branch
    if session.deployment.commit_sha is not None:
        return None
    moved = remote.resolve_branch(branch, session.directory)
    if moved == sha:
        return None
    session.log.system(
        f"Commit {sha[:12]} was replaced by a force-push; branch {branch} is at commit {moved[:12]} now."
    )
    return moved


def _components(url: RepositoryUrl, sha: str) -> dict[str, str]:
    # "lfs" keeps snapshots of earlier versions from being found: they hold pointers instead of content.
    return {"repository": url.public, "commit": sha, "lfs": "content"}


def _result(output: CloneOutput, *, is_cache_hit: bool) -> StageResult[CloneOutput]:
    facts = {"commit_sha": output.commit_sha, "commit_message": output.commit_message}
    return StageResult(output=output, is_cache_hit=is_cache_hit, facts=facts)
