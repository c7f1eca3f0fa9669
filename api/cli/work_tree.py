"""What git knows about the directory that is to be deployed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, unquote, urlsplit

from api.client.credentials import Link
from api.client.errors import ClientError, ExitCode
from shared.errors import CloudifyError
from shared.projects.repository_url import parse_repository_url, place_of, public_form

LINK_KEY = "cloudify.project"
API_KEY = "cloudify.api"
PROFILE_KEY = "cloudify.profile"

_REMOTE = "origin"
_REMOTE_SECONDS = 15.0
# git names the directory that has to be listed; its own advice is written for the shell, too.
_UNSAFE_DIRECTORY = re.compile(r"dubious ownership in repository at '(.*?)'\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Repository:
    """`had_password`: the remote's address held a password or token, which `url` leaves out. `is_tree`: it is the work
    tree itself, not its remote."""

    url: str
    is_local: bool
    had_password: bool = False
    is_tree: bool = False


@dataclass(frozen=True, slots=True)
class Branches:
    """The branches of a repository. `tips`: branch → commit. `default`: the one that its HEAD stands for, None where
    that isn't known; of a work tree it is the one that is checked out."""

    tips: Mapping[str, str]
    default: str | None


class WorkTree:
    """`root` is the top of the work tree, `directory` the one asked for, inside it."""

    def __init__(self, root: Path, directory: Path) -> None:
        self.root = root
        self.directory = directory

    @classmethod
    def find(cls, directory: Path) -> WorkTree | None:
        """None where there is no git work tree."""
        output = _git(directory, "rev-parse", "--show-toplevel", check=False)
        return None if not output else cls(Path(output).resolve(), directory.resolve())

    @property
    def root_directory(self) -> str:
        """The directory asked for, relative to the top; `.` for the top itself."""
        return self.directory.relative_to(self.root).as_posix()

    def branch(self) -> str | None:
        """None on a detached HEAD."""
        return self._git("symbolic-ref", "--quiet", "--short", "HEAD", check=False) or None

    def commit(self, revision: str) -> str | None:
        """The full id of the commit that `revision` names here, or None."""
        # --end-of-options: a revision that starts with a dash is no option.
        return (
            self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", check=False)
            or None
        )

    def count_changes(self) -> int:
        """Files that differ from the last commit, untracked ones included."""
        return len((self._git("status", "--porcelain", "--untracked-files=normal", check=False) or "").splitlines())

    def remote_branches(self, *, is_local: bool) -> Branches | None:
        """Those of the remote `origin` as it is now, or of this repository if `is_local`. None when the remote doesn't
        answer."""
        if is_local:
            return Branches(self._references("refs/heads/"), self.branch())
        # The remote may want a password, which the user is not asked for here.
        asked = ("ls-remote", "--symref", "--", _REMOTE, "HEAD", "refs/heads/*")
        output = self._git(*asked, check=False, seconds=_REMOTE_SECONDS)
        if output is None:
            return None
        rows = [line.partition("\t") for line in output.splitlines()]
        tips = {name.removeprefix("refs/heads/"): sha for sha, _, name in rows if name.startswith("refs/heads/")}
        head = next((value for value, _, name in rows if name == "HEAD" and value.startswith("ref: refs/heads/")), None)
        return Branches(tips, None if head is None else head.removeprefix("ref: refs/heads/"))

    def tracked_branches(self) -> Branches:
        """Those of the remote `origin` at the last fetch."""
        prefix = f"refs/remotes/{_REMOTE}/"
        tips = self._references(prefix)
        tips.pop("HEAD", None)
        head = self._git("symbolic-ref", "--quiet", f"{prefix}HEAD", check=False) or ""
        return Branches(tips, head.removeprefix(prefix) or None)

    def contains(self, tip: str, commit: str) -> bool | None:
        """Whether the commit is in the history of `tip`. None where this repository has too little of that history."""
        if tip == commit:
            return True
        if self.commit(tip) is None:
            return None
        bases = self._git("merge-base", "--is-ancestor", commit, tip, check=False)
        if bases is not None:
            return True
        is_shallow = self._git("rev-parse", "--is-shallow-repository", check=False)
        return None if is_shallow != "false" else False

    def count_between(self, start: str, end: str) -> int | None:
        """How many commits `end` has that `start` hasn't. None where this repository lacks one of them."""
        output = self._git("rev-list", "--count", "--end-of-options", f"{start}..{end}", check=False) or ""
        return int(output) if output.isdigit() else None

    def upstream(self, branch: str) -> str | None:
        """The branch of `origin` that a local branch follows."""
        remote = self._git("config", "--get", f"branch.{branch}.remote", check=False)
        merge = self._git("config", "--get", f"branch.{branch}.merge", check=False) or ""
        return merge.removeprefix("refs/heads/") if remote == _REMOTE and merge.startswith("refs/heads/") else None

    def _references(self, prefix: str) -> dict[str, str]:
        output = self._git("for-each-ref", "--format=%(objectname) %(refname)", prefix, check=False) or ""
        rows = (line.partition(" ") for line in output.splitlines())
        return {name.removeprefix(prefix): sha for sha, _, name in rows}

    def repository(self, *, local: bool) -> Repository:
        """The remote `origin`, or the work tree itself without one or with `local`."""
        remote = None if local else self._git("remote", "get-url", _REMOTE, check=False)
        if not remote:
            return Repository(_file_url(self.root), is_local=True, is_tree=True)
        return repository_of(remote, self.root)

    def is_at(self, url: str) -> bool:
        """Whether a file:// address leads here, or to another work tree of this repository: they share all branches."""
        path = _path_of(url)
        if path is None:
            return False
        listed = (self._git("worktree", "list", "--porcelain", check=False) or "").splitlines()
        return str(path) in (str(self.root), *(line.removeprefix("worktree ") for line in listed))

    def linked_project(self) -> str | None:
        return self._git("config", "--local", "--get", LINK_KEY, check=False) or None

    def linked_api(self) -> Link | None:
        """The API that the linked project is at; None for links that don't say."""
        found = [self._git("config", "--local", "--get", key, check=False) for key in (API_KEY, PROFILE_KEY)]
        return Link(found[0], found[1] or None) if found[0] else None

    def link_project(self, project_id: str, api: Link) -> None:
        for key, value in ((API_KEY, api.api_url), (PROFILE_KEY, api.profile or ""), (LINK_KEY, project_id)):
            self._git("config", "--local", key, value)

    def unlink_project(self) -> None:
        for key in (LINK_KEY, API_KEY, PROFILE_KEY):
            self._git("config", "--local", "--unset-all", key, check=False)

    def _git(self, *arguments: str, check: bool = True, seconds: float = 60) -> str | None:
        return _git(self.root, *arguments, check=check, seconds=seconds, environment=self._ssh)

    @cached_property
    def _ssh(self) -> Mapping[str, str]:
        """ssh asks nothing here, unless the user chose a command for it: git's environment would come before that."""
        chosen = "GIT_SSH_COMMAND" in os.environ or "GIT_SSH" in os.environ
        if chosen or _git(self.root, "config", "--get", "core.sshCommand", check=False):
            return {}
        return {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes"}


def repository_of(remote: str, directory: Path) -> Repository:
    """A remote as git spells it, as a URL; a relative path starts at `directory`. Credentials are left out."""
    if remote.startswith("file://"):
        return Repository(remote, is_local=True)
    try:
        parsed = parse_repository_url(remote)
    except CloudifyError:
        if "://" in remote:
            # The API says what is wrong with it.
            return Repository(remote, is_local=False)
        return Repository(_file_url((directory / Path(remote).expanduser()).resolve()), is_local=True)
    return Repository(parsed.public, is_local=False, had_password=bool(parsed.secrets))


def is_same_address(one: str | None, other: str) -> bool:
    """Whether two addresses differ in spelling or credentials at most; the API shows them without the latter."""
    return one is not None and public_form(one) == public_form(other)


def is_same_repository(one: str | None, other: str) -> bool:
    """Whether two addresses lead to one repository: one may be for https and one for ssh."""
    return one is not None and _place(one) == _place(other)


def _place(url: str) -> str:
    path = _path_of(url)
    return place_of(url if path is None else _file_url(path))


def _path_of(url: str) -> Path | None:
    """Where a file:// address leads on this machine; None for other addresses."""
    return Path(unquote(url.removeprefix("file://"))).resolve() if url.startswith("file://") else None


def name_of(url: str) -> str:
    """The last part of a repository's address without `.git`."""
    return urlsplit(url).path.rstrip("/").rpartition("/")[2].removesuffix(".git") or "site"


def _refused(directory: Path, stderr: str) -> ClientError:
    """The command of the advice can be pasted: it names the top of the work tree, in full and quoted."""
    found = _UNSAFE_DIRECTORY.search(stderr)
    top = found[1] if found else str(directory.absolute())
    return ClientError(
        f"git refuses to read {top}, which belongs to somebody else.",
        f"Run `git config --global --add safe.directory {shlex.quote(top)}` if you trust it.",
        exit_code=ExitCode.USAGE,
    )


def _file_url(path: Path) -> str:
    return "file://" + quote(str(path))


def _git(
    directory: Path,
    *arguments: str,
    check: bool = True,
    seconds: float = 60,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> str | None:
    """What git prints, stripped; None when it fails, or takes longer than `seconds`, and `check` is false.
    `environment` comes on top of this process's own."""
    try:
        finished = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise ClientError("git isn't installed, or not in PATH.", "Install git, or pass --repository URL.") from error
    except subprocess.TimeoutExpired as error:
        if not check:
            return None
        raise ClientError(f"`git {arguments[0]}` didn't finish within {seconds:.0f} s.") from error
    if "dubious ownership" in finished.stderr:
        raise _refused(directory, finished.stderr)
    if finished.returncode != 0:
        if not check:
            return None
        raise ClientError(f"`git {' '.join(arguments)}` failed: {finished.stderr.strip()}")
    return finished.stdout.strip()
