"""Fetches exactly one commit of a repository into a directory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shared.errors import FailureCode, StageFailure
from shared.projects.repository_url import RepositoryUrl
from workers.stages.clone.addresses import Route
from workers.stages.clone.git.failures import (
    MAXIMUM_TRIES,
    RETRY,
    find_foreign_answer,
    find_wait_seconds,
    is_commit_absent,
    is_moved,
)
from workers.stages.clone.git.http_answers import HttpAnswer, read_trace
from workers.stages.clone.git.runner import GitFailed
from workers.stages.clone.session import CloneSession

# Bytes of a list of branches. A message names only some of them.
_MAXIMUM_REFERENCES = 128 << 10
_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True, slots=True)
class References:
    """`shas`: name → SHA, as `refs/heads/main`. `head`: the name that HEAD stands for, None if the server says none."""

    shas: Mapping[str, str]
    head: str | None


class RemoteRepository:
    """A repository on a server. Not shared between threads.

    Made by `connect`, which checks the address; every later contact takes the route that was checked.
    """

    def __init__(self, session: CloneSession, url: RepositoryUrl, route: Route) -> None:
        self.url = url
        self.route = route
        self._session = session
        self._git = session.git
        self._answers: list[HttpAnswer] = []

    @classmethod
    def connect(cls, session: CloneSession, url: RepositoryUrl) -> RemoteRepository:
        """Raises StageFailure URL_FORBIDDEN, REPOSITORY_UNREACHABLE or REPOSITORY_AUTHENTICATION, PlatformError,
        Cancelled."""
        route = session.network.find_route(url)
        authorised = session.access.authorise(url)
        if (origin := session.access.withheld_from(url)) is not None:
            session.log.system(f"The project's credentials are for {origin}; they are not sent to {url.host}.")
        return cls(session, authorised, route)

    def list_references(self, patterns: Sequence[str], directory: Path) -> References:
        """The references that fit one of the patterns of git-ls-remote(1). A list longer than 128 KiB is cut off.

        All of it is the server's word, names included. Raises StageFailure."""
        arguments = ["ls-remote", "--quiet", "--symref", "--", "URL", *patterns]
        try:
            output = self._contact(arguments, directory, limit=_MAXIMUM_REFERENCES)
        except GitFailed as error:
            raise self._failure_of(error) from error
        shas: dict[str, str] = {}
        head = None
        for line in output.decode("utf-8", "replace").split("\n"):
            value, _, name = line.rpartition("\t")
            if name == "HEAD" and value.startswith("ref: "):
                head = value.removeprefix("ref: ")
            elif name and _SHA.fullmatch(value):
                shas[name] = value
        return References(shas, head)

    def find_foreign_answer(self) -> StageFailure | None:
        """The failure if the last list of references is empty because the server doesn't speak git's protocol."""
        return find_foreign_answer(self.url, self._answers)

    def fetch(self, sha: str, directory: Path, branch: str | None) -> None:
        """Fetches the commit into the new repository `directory` and checks it out. Raises StageFailure.

        If the server doesn't serve commits by SHA, fetches the branch, then everything.
        """
        self._initialise(sha, directory)
        self._fetch_commit(sha, directory, branch)
        self._git.check_tree(sha, directory)
        try:
            self._git.run(["checkout", "--quiet", "--force", "--detach", sha], directory)
        except GitFailed as error:
            raise StageFailure(
                FailureCode.CONFIGURATION_INVALID,
                f"Commit {sha[:12]} can't be checked out: {error.stderr.strip()[-300:]}",
            ) from error
        self._git.check_size()

    def _fetch_commit(self, sha: str, directory: Path, branch: str | None) -> None:
        wanted = [["--depth=1", sha], ["--tags", "+refs/heads/*:refs/remotes/origin/*"]]
        if branch is not None:
            wanted.insert(1, ["--depth=50", f"refs/heads/{branch}"])
        for *options, reference in wanted:
            arguments = ["fetch", "--progress", "--no-recurse-submodules", *options, "--", "URL", reference]
            try:
                self._contact(arguments, directory)
            except GitFailed as error:
                if not is_commit_absent(error.stderr):
                    raise self._failure_of(error) from error
            if self._has_commit(sha, directory):
                return
        raise StageFailure(
            FailureCode.COMMIT_NOT_FOUND,
            f"{self.url.public} has no commit {sha}. It may have been removed by a force-push.",
        )

    def fetch_trees(self, shas: Sequence[str], directory: Path) -> bool:
        """Fetches the commits into the repository `directory`, which is created if it is missing, without their files
        if the server can leave those out. Returns False if they are unavailable. Raises StageFailure if they are too
        large to be compared."""
        if not (directory / ".git").exists():
            self._initialise(shas[0], directory)
        options = ["--quiet", "--depth=1", "--filter=blob:none", "--no-tags", "--no-recurse-submodules"]
        try:
            self._contact_once(["fetch", *options, "--", "URL", *shas], directory)
        except GitFailed:
            return False
        if not all(self._has_commit(sha, directory) for sha in shas):
            return False
        for sha in shas:
            self._git.check_tree(sha, directory, has_files=False)
        return True

    def _initialise(self, sha: str, directory: Path) -> None:
        self._git.run(["init", "--quiet", f"--object-format={'sha1' if len(sha) == 40 else 'sha256'}"], directory)

    def _has_commit(self, sha: str, directory: Path) -> bool:
        try:
            self._git.run(["cat-file", "-e", f"{sha}^{{commit}}"], directory, is_silent=True)
        except GitFailed:
            return False
        return True

    def _contact(self, arguments: list[str], directory: Path, *, limit: int | None = None) -> bytes:
        """Runs git with this repository's address in place of "URL", and retries after transient failures.

        `limit`: as for `Git.run`. Raises GitFailed."""
        failures = 0
        while True:
            try:
                return self._contact_once(arguments, directory, limit)
            except GitFailed as error:
                failures += 1
                is_ours = self._session.network.find_proxy_failure(self.url) is not None
                can_wait = failures < MAXIMUM_TRIES and not is_ours
                wait = find_wait_seconds(error, RETRY.delay_seconds(failures)) if can_wait else None
                if wait is None:
                    raise
                status = f"answers {error.answers[-1].status}" if error.answers else "broke off"
                self._session.log.system(f"{self.url.host} {status}; trying again in {wait:.0f} s.")
                self._session.deadline.pause(wait)

    def _contact_once(self, arguments: list[str], directory: Path, limit: int | None = None) -> bytes:
        try:
            return self._run(arguments, directory, limit)
        except GitFailed as error:
            # Some hosts redirect to the address with .git. git follows none: they could lead to a private address.
            if not is_moved(error.stderr) or self.url.path.endswith(".git"):
                raise
            self.url = replace(self.url, path=self.url.path.rstrip("/") + ".git")
            return self._run(arguments, directory, limit)

    def _run(self, arguments: list[str], directory: Path, limit: int | None) -> bytes:
        trace = self._git.trace
        trace.unlink(missing_ok=True)
        remote = self._session.access.environment(self.url, self.route)
        # Headers only; git redacts credentials.
        remote |= {"GIT_TRACE_CURL": str(trace), "GIT_TRACE_CURL_NO_DATA": "1"} if self.url.is_http else {}
        filled = [self.url.public if argument == "URL" else argument for argument in arguments]
        try:
            output = self._git.run(filled, directory, remote, is_silent=arguments[0] == "ls-remote", limit=limit)
            self._answers = read_trace(trace)
        except GitFailed as error:
            error.answers = read_trace(trace)
            raise
        finally:
            trace.unlink(missing_ok=True)
        self._session.access.keep_host_key(self.url)
        return output

    def _failure_of(self, error: GitFailed) -> Exception:
        return self._session.failure_of(error, self.url, has_waited=True)
