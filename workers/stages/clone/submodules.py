"""Fetches a commit's submodules."""

from __future__ import annotations

import os
import posixpath
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, unquote

from shared.errors import FailureCode, StageFailure
from shared.projects.repository_url import RepositoryPolicy, RepositoryUrl
from workers.stages.clone.addresses import parse_for_clone
from workers.stages.clone.fetch import RemoteRepository
from workers.stages.clone.git.runner import GitFailed
from workers.stages.clone.lfs.fetcher import LfsFetcher
from workers.stages.clone.session import CloneSession

_MAXIMUM_SUBMODULE_DEPTH = 5
_MAXIMUM_SUBMODULES = 100
# Bytes of all paths and addresses in .gitmodules.
_MAXIMUM_MODULES = 1 << 20
# Submodules in the index; those without an entry in .gitmodules are left empty.
_MAXIMUM_LINKS = 10_000
_MAXIMUM_LINES = 20


class SubmoduleFetcher:
    """Fetches the submodules of a checked-out commit recursively, each at the commit that its parent names."""

    def __init__(self, session: CloneSession, lfs: LfsFetcher) -> None:
        self._session = session
        self._lfs = lfs
        self._count = 0
        self._left_empty = 0

    def fetch(self, parent: RepositoryUrl, directory: Path, depth: int = 0) -> None:
        """Fetches the submodules of `directory`. Raises StageFailure that names the submodule."""
        links = self._links(directory)
        if not links:
            return
        urls = self._urls(directory)
        for path, sha in links.items():
            url = urls.get(path)
            if url is None:
                # An embedded repository that was committed by mistake. git ignores it too.
                self._left_empty += 1
                if self._left_empty <= _MAXIMUM_LINES:
                    self._session.log.system(f"{path} is a submodule without an entry in .gitmodules; left empty.")
                continue
            self._count += 1
            if depth >= _MAXIMUM_SUBMODULE_DEPTH or self._count > _MAXIMUM_SUBMODULES:
                raise StageFailure(
                    FailureCode.REPOSITORY_TOO_LARGE,
                    f"The repository has more than {_MAXIMUM_SUBMODULES} submodules, or nests them deeper than "
                    f"{_MAXIMUM_SUBMODULE_DEPTH}.",
                )
            try:
                self._fetch_one(parent, url, sha, directory / path, depth)
            except StageFailure as failure:
                raise StageFailure(failure.code, f"Submodule {path}: {failure.message}") from failure

    def _fetch_one(self, parent: RepositoryUrl, url: str, sha: str, directory: Path, depth: int) -> None:
        repository = resolve_submodule(parent, url, self._session.network.policy)
        self._session.log.system(f"Fetching the submodule {repository.public} at {sha[:12]}.")
        remote = RemoteRepository.connect(self._session, repository)
        # git created an empty directory there at checkout, and refuses paths through links.
        directory.mkdir(parents=True, exist_ok=True)
        remote.fetch(sha, directory, None)
        self._lfs.fetch(remote, directory)
        self.fetch(remote.url, directory, depth + 1)

    def _links(self, directory: Path) -> dict[str, str]:
        """Path → commit of every submodule in the index."""
        links = _Links()
        self._session.git.run(["ls-files", "--stage", "-z"], directory, consume=links.add)
        return links.found

    def _urls(self, directory: Path) -> dict[str, str]:
        """Path → address, from .gitmodules as committed (never through a link in the working tree)."""
        arguments = ["config", "--blob", "HEAD:.gitmodules", "--null", "--get-regexp", r"^submodule\..*\.(path|url)$"]
        try:
            output = self._session.git.run(arguments, directory, is_silent=True)
        except GitFailed as error:
            if "bad config" in error.stderr:
                # Otherwise the submodules would be left empty, like those that .gitmodules doesn't name.
                raise StageFailure(
                    FailureCode.CONFIGURATION_INVALID,
                    f".gitmodules can't be read: {error.stderr.strip()[:200]}. Correct the file and push again.",
                ) from error
            return {}
        if len(output) > _MAXIMUM_MODULES:
            raise StageFailure(
                FailureCode.REPOSITORY_TOO_LARGE,
                f".gitmodules names more than can be fetched: at most {_MAXIMUM_SUBMODULES} submodules are. Remove"
                " those that the site doesn't need and push again.",
            )
        values: dict[str, dict[str, str]] = {}
        for entry in output.decode("utf-8", "surrogateescape").split("\0"):
            name, _, value = entry.partition("\n")
            section, _, key = name.rpartition(".")
            values.setdefault(section, {})[key] = value
        return {both["path"]: both["url"] for both in values.values() if "path" in both and "url" in both}


class _Links:
    """Parses git's NUL-terminated list of the index in chunks. `found`: path → commit of each submodule."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self._rest = b""

    def add(self, data: bytes) -> None:
        """Raises StageFailure if there are more than the limit."""
        *entries, self._rest = (self._rest + data).split(b"\0")
        for entry in entries:
            if not entry.startswith(b"160000 "):
                continue
            information, _, path = entry.partition(b"\t")
            self.found[path.decode("utf-8", "surrogateescape")] = information.split(b" ")[1].decode()
        if len(self.found) > _MAXIMUM_LINKS:
            raise StageFailure(
                FailureCode.REPOSITORY_TOO_LARGE,
                f"The repository has more than {_MAXIMUM_LINKS} submodules, with those that .gitmodules doesn't name.",
            )


def resolve_submodule(parent: RepositoryUrl, url: str, policy: RepositoryPolicy) -> RepositoryUrl:
    """Resolves a submodule's address. A relative one gets the parent's host and credentials.

    A repository from the network may not name a directory of this host, even if file:// is allowed.
    """
    if url.startswith(("./", "../")):
        path = posixpath.normpath(posixpath.join(parent.path, url))
        if path in ("/", ".", "//"):
            raise StageFailure(FailureCode.URL_FORBIDDEN, f"The relative address {url} names no repository.")
        # git uses it unescaped, as in .gitmodules; characters that a URL can't hold are escaped here.
        path = quote(os.fsencode(path), safe="/%~:@!$&'()*+,;=")
        parse_for_clone(replace(parent, path=path).public, policy)
        repository = replace(parent, path=path)
    else:
        repository = parse_for_clone(url, policy)
    if repository.scheme == "file":
        _check_local_submodule(parent, repository)
    return repository


def _check_local_submodule(parent: RepositoryUrl, repository: RepositoryUrl) -> None:
    """An administrator chose the parent's address, but everyone who can push to it writes .gitmodules, so a submodule
    has to be below the directory that contains the parent."""
    if parent.scheme != "file":
        raise StageFailure(FailureCode.URL_FORBIDDEN, "A file:// address is refused in a repository from the network.")
    directory = posixpath.dirname(posixpath.normpath(unquote(parent.path))).rstrip("/")
    path = posixpath.normpath(unquote(repository.path))
    if not directory or not path.startswith(f"{directory}/"):
        raise StageFailure(
            FailureCode.URL_FORBIDDEN,
            f"{repository.public} is not in the directory of {parent.public}. A submodule of a repository on this host "
            "has to be next to it.",
        )
