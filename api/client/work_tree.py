"""What git knows about the directory that is to be deployed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from api.client.errors import ClientError, ExitCode
from shared.errors import CloudifyError
from shared.repository_url import parse_repository_url, public_form

LINK_KEY = "cloudify.project"


@dataclass(frozen=True, slots=True)
class Repository:
    """`had_password`: the remote's address held a password or token, which `url` leaves out."""

    url: str
    is_local: bool
    had_password: bool = False


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
        return _git(self.root, "symbolic-ref", "--quiet", "--short", "HEAD", check=False) or None

    def commit(self, revision: str) -> str | None:
        """The full id of the commit that `revision` names here, or None."""
        # --end-of-options: a revision that starts with a dash is no option.
        return (
            _git(
                self.root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", check=False
            )
            or None
        )

    def count_changes(self) -> int:
        """Files that differ from the last commit, untracked ones included."""
        return len(_git(self.root, "status", "--porcelain", "--untracked-files=normal", check=False).splitlines())

    def count_unpushed(self) -> int:
        """Commits of HEAD that no remote-tracking branch has."""
        output = _git(self.root, "rev-list", "--count", "HEAD", "--not", "--remotes", check=False)
        return int(output) if output.isdigit() else 0

    def repository(self, *, local: bool) -> Repository:
        """The remote `origin`, or the work tree itself without one or with `local`."""
        remote = "" if local else _git(self.root, "remote", "get-url", "origin", check=False)
        if not remote:
            return Repository(_file_url(self.root), is_local=True)
        return repository_of(remote, self.root)

    def linked_project(self) -> str | None:
        return _git(self.root, "config", "--local", "--get", LINK_KEY, check=False) or None

    def link_project(self, project_id: str) -> None:
        _git(self.root, "config", "--local", LINK_KEY, project_id)

    def unlink_project(self) -> None:
        _git(self.root, "config", "--local", "--unset-all", LINK_KEY, check=False)


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


def is_same_repository(one: str | None, other: str) -> bool:
    """Whether two addresses differ in spelling or credentials at most; the API shows them without the latter."""
    return one is not None and public_form(one) == public_form(other)


def name_of(url: str) -> str:
    """The last part of a repository's address without `.git`."""
    return urlsplit(url).path.rstrip("/").rpartition("/")[2].removesuffix(".git") or "site"


def _file_url(path: Path) -> str:
    return "file://" + quote(str(path))


def _git(directory: Path, *arguments: str, check: bool = True) -> str:
    """What git prints, stripped; empty when it fails and `check` is false."""
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        finished = subprocess.run(
            ["git", "-C", str(directory), *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            check=False,
        )
    except FileNotFoundError as error:
        raise ClientError("git isn't installed, or not in PATH.", "Install git, or pass --repository URL.") from error
    except subprocess.TimeoutExpired as error:
        raise ClientError(f"`git {arguments[0]}` didn't finish within 60 s.") from error
    if "dubious ownership" in finished.stderr:
        raise ClientError(
            f"git refuses to read {directory}, which belongs to somebody else.",
            f"Run `git config --global --add safe.directory {directory}` if you trust it.",
            exit_code=ExitCode.USAGE,
        )
    if finished.returncode != 0:
        if not check:
            return ""
        raise ClientError(f"`git {' '.join(arguments)}` failed: {finished.stderr.strip()}")
    return finished.stdout.strip()
