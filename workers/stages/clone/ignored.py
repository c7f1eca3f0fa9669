"""Decides whether a deployment with the condition "if changed" has anything to build.

Commits are compared by the SHAs of their trees, so nothing is checked out and no file is fetched. A change counts if
the former build depended on its path: the project's root directory, the workspace packages that it uses, and the files
that decide how its dependencies are installed. In doubt the deployment is built.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shared.deployments.former_repository import FormerDeploymentRepository
from workers.frameworks.watched_paths import SHARED_FILES
from workers.pipeline.stage import DeploymentView, NothingToBuild
from workers.stages.clone.fetch import RemoteRepository
from workers.stages.clone.git.runner import OFFLINE, Git, GitFailed
from workers.stages.clone.session import CloneSession

_SKIP = re.compile(r"\[(?:skip ci|ci skip|no ci|skip cloudify|cloudify skip)\]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FormerBuild:
    """The ready deployment that this one would replace. `watched`: paths that its output depended on."""

    commit_sha: str
    watched: tuple[str, ...]


class IgnoredBuilds:
    def __init__(self, former_deployments: FormerDeploymentRepository) -> None:
        self._former_deployments = former_deployments

    def check(self, session: CloneSession, remote: RemoteRepository, sha: str) -> None:
        """Raises NothingToBuild if the commit is deployed, asks to be skipped, or changes nothing that is watched."""
        reason = self._find_reason(session, remote, sha)
        if reason is not None:
            raise NothingToBuild(reason)

    def _find_reason(self, session: CloneSession, remote: RemoteRepository, sha: str) -> str | None:
        git, directory = session.git, session.directory / "comparison"
        directory.mkdir()
        former = self._former(session.deployment)
        if former is not None and former.commit_sha == sha:
            return f"Commit {sha[:12]} is deployed already."
        wanted = [sha] if former is None else [sha, former.commit_sha]
        if not remote.fetch_trees(wanted, directory):
            # The former commit may be gone after a force-push.
            if former is None or not remote.fetch_trees([sha], directory):
                return None
            former = None
        skip = _SKIP.search(git.read_message(sha, directory))
        if skip:
            return f"The message of commit {sha[:12]} says {skip[0]}."
        if former is None or _has_changed(git, directory, former, sha):
            return None
        # Only the project and two of the packages that it uses: lockfiles are watched whether they exist or not.
        used = [path for path in former.watched[1:] if path.rpartition("/")[2] not in SHARED_FILES]
        place = "" if former.watched == (".",) else f" in {', '.join([former.watched[0], *used[:2]])}"
        return f"Nothing has changed{place} since commit {former.commit_sha[:12]}, which is deployed."

    def _former(self, deployment: DeploymentView) -> FormerBuild | None:
        row = self._former_deployments.find(deployment.id)
        if row is None or not row.commit_sha or row.is_otherwise_changed:
            return None
        return FormerBuild(row.commit_sha, tuple(row.watched or ["."]))


def _has_changed(git: Git, directory: Path, former: FormerBuild, sha: str) -> bool:
    paths = [] if "." in former.watched else [f":(top,literal){path}" for path in former.watched]
    arguments = ["diff-tree", "-r", "--quiet", "--no-renames", former.commit_sha, sha, "--", *paths]
    try:
        git.run(arguments, directory, OFFLINE, is_silent=True)
    except GitFailed:
        # A difference, or an error: in doubt the deployment is built.
        return True
    return False
