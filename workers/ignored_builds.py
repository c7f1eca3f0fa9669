"""Whether a deployment that was asked for on the condition that there is something new has anything to build.

Commits are compared by the names of their trees, so nothing is checked out and no file is fetched. What counts is what
the former build depended on: the project's root directory, the packages of its workspace that it uses, and the files
that decide how its dependencies are installed. In doubt it is built.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import StageFailure
from shared.repositories.deployments import DeploymentRepository
from workers.frameworks.detection import Detection
from workers.frameworks.node_projects import LOCKFILES, dependencies_of
from workers.frameworks.outside_references import outside_references
from workers.frameworks.source_references import source_references
from workers.frameworks.source_tree import SourceTree, ancestors, join
from workers.git import Git, GitFailed
from workers.repository_fetch import RemoteRepository
from workers.stage import DeploymentView
from workers.stages.dependency_key import runs_scripts, source_reader

_SKIP = re.compile(r"\[(?:skip ci|ci skip|no ci|skip cloudify|cloudify skip)\]", re.IGNORECASE)
# In the directories above the project's.
_SHARED_FILES = (
    *(name for names in LOCKFILES.values() for name in names),
    *("package.json", ".npmrc", ".yarnrc", ".yarnrc.yml", ".yarn", "bunfig.toml", "pnpm-workspace.yaml", "patches"),
    *(".pnpmfile.cjs", ".pnpmfile.mjs", "pnpmfile.cjs", "turbo.json", "tsconfig.json", "tsconfig.base.json"),
    *("uv.lock", "uv.toml", "poetry.lock", "poetry.toml", "Pipfile", "Pipfile.lock", "requirements.txt"),
    *("pyproject.toml", ".nvmrc", ".node-version", ".python-version", ".gitattributes", ".lfsconfig"),
    # Looked for upward by what makes styles and scripts.
    *(".browserslistrc", "browserslist", ".postcssrc", "babel.config.js", "babel.config.json", ".babelrc"),
    *(f".postcssrc.{kind}" for kind in ("json", "yaml", "yml", "js", "cjs", "mjs", "ts")),
    *(f"postcss.config.{kind}" for kind in ("js", "cjs", "mjs", "ts", "cts", "mts", "json")),
)


class Ignored(Exception):
    """There is nothing to build; the message says why, to the person who pushed."""


@dataclass(frozen=True, slots=True)
class FormerBuild:
    """The ready deployment that this one would follow. `watched`: paths that its output depended on."""

    commit_sha: str
    watched: tuple[str, ...]


class IgnoredBuilds:
    def __init__(self, deployments: DeploymentRepository) -> None:
        self._deployments = deployments

    def find_reason(
        self, deployment: DeploymentView, git: Git, remote: RemoteRepository, sha: str, directory: Path
    ) -> str | None:
        """Why there is nothing to build, or None. `directory` is empty, and used up."""
        former = self._former(deployment)
        if former is not None and former.commit_sha == sha:
            return f"Commit {sha[:12]} is deployed already."
        wanted = [sha] if former is None else [sha, former.commit_sha]
        if not remote.fetch_trees(wanted, directory):
            # The former commit may be gone after a force-push.
            if former is None or not remote.fetch_trees([sha], directory):
                return None
            former = None
        message = git.run(["log", "-1", "--no-show-signature", "--format=%B", sha], directory)
        skip = _SKIP.search(message.decode("utf-8", "replace"))
        if skip:
            return f"The message of commit {sha[:12]} says {skip[0]}."
        if former is None or _has_changed(git, directory, former, sha):
            return None
        # The project, what it uses, and only then what is there or not.
        used = [path for path in former.watched[1:] if path.rpartition("/")[2] not in _SHARED_FILES]
        place = "" if former.watched == (".",) else f" in {', '.join([former.watched[0], *used[:2]])}"
        return f"Nothing has changed{place} since commit {former.commit_sha[:12]}, which is deployed."

    def _former(self, deployment: DeploymentView) -> FormerBuild | None:
        row = self._deployments.find_former(deployment.id)
        if row is None or not row["commit_sha"] or row["is_otherwise_changed"]:
            return None
        watched: Sequence[Any] = row["watched"] or ["."]
        return FormerBuild(row["commit_sha"], tuple(str(path) for path in watched))


def _has_changed(git: Git, directory: Path, former: FormerBuild, sha: str) -> bool:
    paths = [] if "." in former.watched else [f":(top,literal){path}" for path in former.watched]
    # Files that weren't fetched must not be fetched now: this contact isn't bound to the address that was checked.
    offline = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_LAZY_FETCH": "1"}
    arguments = ["diff-tree", "-r", "--quiet", "--no-renames", former.commit_sha, sha, "--", *paths]
    try:
        git.run(arguments, directory, offline, is_silent=True)
    except GitFailed:
        # The exit code of a difference, as of anything that went wrong.
        return True
    return False


def watched_paths(tree: SourceTree, detection: Detection) -> list[str]:
    """What the output of a project depends on, as paths in the repository: `["."]` for all of it."""
    root = detection.root_directory
    if root == "." or _installs_more(tree, detection):
        return ["."]
    packages = _workspace_packages(tree, root)
    commands = [detection.install_command or "", detection.build_command or ""]
    outside = [path for package in packages for path in outside_references(tree, package, [])]
    outside += outside_references(tree, root, commands)
    outside += [path for package in (root, *packages) for path in source_references(tree, package)]
    if "." in outside:
        return ["."]
    shared = [join(above, name) for above in ancestors(root)[1:] for name in _SHARED_FILES]
    paths = [root, *packages, *outside, *shared]
    if detection.runtime == "python" and detection.lockfile:
        paths.append(detection.lockfile)
    return list(dict.fromkeys(paths))


def _installs_more(tree: SourceTree, detection: Detection) -> bool:
    """Whether the install, in a directory above the project's, may read any file there."""
    directory = detection.install_directory
    if detection.install_command is None or directory == detection.root_directory:
        return False
    if detection.runtime == "node":
        return runs_scripts(_read_package(tree, join(directory, "package.json")))
    return source_reader(tree, detection) is not None


def _workspace_packages(tree: SourceTree, root: str) -> list[str]:
    """Directories of the repository's own packages that the project depends on, directly or not."""
    by_name: dict[str, tuple[str, dict[str, Any]]] = {}
    for path in tree.find_all(".", "package.json"):
        package = _read_package(tree, path)
        name = package.get("name")
        if isinstance(name, str):
            by_name[name] = (ancestors(path)[1], package)
    found: dict[str, None] = {}
    waiting = [_read_package(tree, join(root, "package.json"))]
    while waiting:
        for name in dependencies_of(waiting.pop()):
            if name in by_name and by_name[name][0] not in found:
                directory, package = by_name[name]
                found[directory] = None
                waiting.append(package)
    return [directory for directory in found if directory != "."]


def _read_package(tree: SourceTree, path: str) -> dict[str, Any]:
    try:
        return tree.read_object(path) or {}
    except StageFailure:
        # Somebody else's broken file, in a fixture for instance.
        return {}
