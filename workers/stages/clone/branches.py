"""Finds the branch that a deployment is of: the one that was named, or the repository's default branch.

The default branch is the one that the repository's HEAD stands for, as for `git clone`. All names come from the server,
which may be hostile: none is used before it was checked.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.deployments.deployment_input import is_branch_name
from shared.errors import FailureCode, StageFailure
from shared.text.written import is_written_text
from workers.stages.clone.fetch import References, RemoteRepository

_HEADS = "refs/heads/"
# What git takes for the default branch, too, if a server doesn't say which it is.
_USUAL_DEFAULTS = ("main", "master")
# Names that a message lists first if none is like the one that was asked for.
_COMMON = (*_USUAL_DEFAULTS, "trunk", "develop", "dev", "production", "prod", "release", "staging", "gh-pages", "next")
_LISTED = 10
_LIKE = 0.6
# Characters of a name that are compared or shown.
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Tip:
    """A branch and its newest commit. `default`: the repository's default branch, if the server has said it. `remark`:
    a sentence for the log, if there is anything to say about how the branch was found."""

    branch: str
    sha: str
    default: str | None
    remark: str = ""


class BranchFinder:
    """`directory`: where git runs. `project`: the project's slug, for the commands in messages."""

    def __init__(self, remote: RemoteRepository, directory: Path, project: str) -> None:
        self._remote = remote
        self._directory = directory
        self._project = project

    def find(self, branch: str) -> Tip:
        """The branch of this name. Raises StageFailure."""
        if not is_branch_name(branch):
            raise _failure(f"{branch!r} can't be the name of a branch.")
        reference, tag = f"{_HEADS}{branch}", f"refs/tags/{branch}"
        there = self._list(reference, tag, f"{tag}^{{}}", "HEAD")
        default = _default_of(there)
        if reference in there.shas:
            return Tip(branch, there.shas[reference], default)
        problem = f"{self._shown} has no branch {branch!r}"
        if tag in there.shas:
            tagged = there.shas.get(f"{tag}^{{}}", there.shas[tag])
            raise _failure(f"{problem}, but a tag of this name. Deploy its commit: {tagged}.")
        names = list(self._branches())
        if default is None:
            raise _failure(f"{problem}. It has: {_listed(relevant(names, branch))}.")
        others = [name for name in names if name != default]
        also = f" It also has: {_listed(relevant(others, branch))}." if others else ""
        follow = f"cloudify settings unset repositoryBranch --project {self._project}"
        raise _failure(f"{problem}. Its default branch is {default!r}; `{follow}` deploys that.{also}")

    def find_default(self) -> Tip:
        """The repository's default branch. Raises StageFailure."""
        there = self._list("HEAD")
        sha = there.shas.get("HEAD")
        if there.head is not None and there.head.startswith(_HEADS) and sha is not None:
            default = _default_of(there)
            if default is not None:
                return Tip(default, sha, default)
            name = there.head.removeprefix(_HEADS)
            raise _failure(
                f"The default branch of {self._shown} has a name that can't be deployed ({name[:_SHOWN]!a}). "
                f"{self._name_one()}"
            )
        return self._guess(sha)

    def _guess(self, sha: str | None) -> Tip:
        """The default branch of a repository whose HEAD names none that exists: as git does, by HEAD's commit. `sha`:
        that commit, None if there is none."""
        branches = self._branches()
        fitting = [name for name, tip in branches.items() if sha is None or tip == sha]
        usual = [name for name in _USUAL_DEFAULTS if name in fitting]
        found = fitting[0] if len(fitting) == 1 else usual[0] if usual else None
        if found is None:
            reason = "its HEAD names none that exists" if sha is None else f"its HEAD is detached, at commit {sha[:12]}"
            raise _failure(
                f"{self._shown} has no default branch: {reason}. {self._name_one()} It has: "
                f"{_listed(relevant(list(branches)))}."
            )
        why = "which has the commit of its HEAD" if sha else "by its name" if len(fitting) > 1 else "its only branch"
        remark = f"{self._shown} doesn't say which branch is its default; taking {found}, {why}."
        return Tip(found, branches[found], None, remark)

    def _branches(self) -> dict[str, str]:
        """Branch → SHA, of names that can be deployed. Raises StageFailure if there is no branch at all."""
        there = self._list(f"{_HEADS}*")
        names = {name.removeprefix(_HEADS): sha for name, sha in there.shas.items() if name.startswith(_HEADS)}
        if not names:
            other = self._remote.find_foreign_answer()
            if other is not None:
                raise other
            raise StageFailure(
                FailureCode.REPOSITORY_EMPTY, f"{self._shown} has no commits yet. Push one, then deploy again."
            )
        return {name: sha for name, sha in names.items() if _is_usable(name)}

    def _list(self, *patterns: str) -> References:
        return self._remote.list_references(patterns, self._directory)

    @property
    def _shown(self) -> str:
        return self._remote.url.public

    def _name_one(self) -> str:
        command = f"cloudify settings set repositoryBranch NAME --project {self._project}"
        return f"Name one with `{command}`, or make HEAD lead to a branch there."


def relevant(names: Sequence[str], asked: str = "") -> list[str]:
    """The names, those first that are like the one that was asked for, then usual ones, then the latest by number."""

    def key(name: str) -> tuple[float, int, list[tuple[str, int]]]:
        usual = _COMMON.index(name) if name in _COMMON else len(_COMMON)
        return -_likeness(name, asked), usual, _newest_first(name)

    return sorted(names, key=key)


def _likeness(name: str, asked: str) -> float:
    """From `_LIKE` to 1, or 0."""
    # Cut: the time grows with the product of the lengths.
    matcher = difflib.SequenceMatcher(None, name[:_SHOWN].casefold(), asked[:_SHOWN].casefold())
    if not asked or matcher.quick_ratio() < _LIKE:
        return 0.0
    ratio = matcher.ratio()
    return ratio if ratio >= _LIKE else 0.0


def _newest_first(name: str) -> list[tuple[str, int]]:
    """Numbers descending: v10, v9, v1."""
    parts = re.split(r"([0-9]+)", name)
    return [(text, -int(number or 0)) for text, number in zip(parts[::2], [*parts[1::2], ""], strict=True)]


def _failure(message: str) -> StageFailure:
    return StageFailure(FailureCode.BRANCH_NOT_FOUND, message)


def _default_of(there: References) -> str | None:
    name = (there.head or "").removeprefix(_HEADS)
    return name if there.head == f"{_HEADS}{name}" and _is_usable(name) else None


def _is_usable(name: str) -> bool:
    return is_branch_name(name) and is_written_text(name)


def _listed(names: Sequence[str]) -> str:
    shown = [name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…" for name in names[:_LISTED]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")
