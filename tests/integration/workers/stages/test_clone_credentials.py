"""Tokens of a project: sent to their host, to its submodules there, and nowhere else. Commits that vanish meanwhile."""

from __future__ import annotations

import base64
from email.message import Message
from pathlib import Path

import psutil
import pytest

from shared.errors import FailureCode
from shared.projects.repository_credentials import RepositoryCredentials
from shared.projects.repository_url import parse_repository_url
from tests.support.cloner import Cloner
from tests.support.git_server import GitServer, serving
from tests.support.repositories import commit, git, make_repository

pytestmark = pytest.mark.integration

SECRET = "s3cret-passw0rd"


def token(server: GitServer) -> RepositoryCredentials:
    return RepositoryCredentials("token", f"http://127.0.0.1:{server.server_port}", "user", SECRET)


def add_submodules(directory: Path, sha: str, urls: dict[str, str]) -> None:
    text = "".join(f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n' for path, url in urls.items())
    (directory / ".gitmodules").write_text(text)
    for path in urls:
        git(directory, "update-index", "--add", "--cacheinfo", f"160000,{sha},{path}")
    git(directory, "add", ".gitmodules")
    git(directory, "commit", "--quiet", "-m", "Add submodules")


def test_a_token_reads_a_repository_and_its_submodules_there(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "theme.git", {"theme.css": "one"})
    make_repository(http.root / "site.git", {"index.html": "one"})
    sha = git(http.root / "theme.git", "rev-parse", "HEAD")
    add_submodules(http.root / "site.git", sha, {"a": "../theme.git", "b": http.url("theme.git")})
    http.credentials = f"user:{SECRET}"
    seen: list[str] = []

    def look(*_: object) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                seen.extend([*process.cmdline()])
            except psutil.Error:
                continue

    http.respond = look
    context = cloner.context(http.url("site.git"), credentials=token(http))
    result = cloner.stage.run(context)
    files = cloner.files(result)
    assert (files["index.html"], files["a/theme.css"], files["b/theme.css"]) == (b"one", b"one", b"one")
    assert any("ls-remote" in argument for argument in seen)
    encoded = base64.b64encode(f"user:{SECRET}".encode()).decode()
    kept = [path.read_bytes().decode("utf-8", "replace") for path in context.directory.rglob("*") if path.is_file()]
    for text in [*seen, *kept, *(content.decode() for content in files.values()), cloner.log.text]:
        assert SECRET not in text
        assert encoded not in text
    # The condition of a deployment is looked at with them as well.
    assert cloner.clone(http.url("site.git"), credentials=token(http), if_changed=True).is_cache_hit
    refused = cloner.failure(http.url("site.git"), clean=True)
    assert (refused.code, "cloudify credentials set" in refused.message) == (
        FailureCode.REPOSITORY_AUTHENTICATION,
        True,
    )


def test_another_host_gets_no_credentials(cloner: Cloner, http: GitServer, tmp_path: Path) -> None:
    sent: list[str | None] = []

    def record(_method: str, _path: str, headers: Message, _body: bytes) -> None:
        sent.append(headers.get("Authorization"))

    (tmp_path / "other").mkdir()
    with serving(tmp_path / "other") as other:
        other.respond = record
        make_repository(other.root / "theme.git", {"theme.css": "one"})
        make_repository(http.root / "site.git", {"index.html": "one"})
        sha = git(other.root / "theme.git", "rev-parse", "HEAD")
        urls = {"plain": other.url("theme.git"), "own": other.url("theme.git", "someone:0wn-t0ken")}
        add_submodules(http.root / "site.git", sha, urls)
        http.credentials = f"user:{SECRET}"
        cloner.clone(http.url("site.git"), credentials=token(http))
        own = "Basic " + base64.b64encode(b"someone:0wn-t0ken").decode()
        assert set(sent) == {None, own}
        assert f"are for http://127.0.0.1:{http.server_port}; they are not sent" in cloner.log.text
        assert "0wn-t0ken" not in cloner.log.text
        # Nor does the project's own new address, if it is on another host.
        sent.clear()
        cloner.clone(other.url("theme.git"), credentials=token(http))
        assert set(sent) == {None}


def test_a_redirect_carries_nothing_away(cloner: Cloner, http: GitServer, tmp_path: Path) -> None:
    with serving(tmp_path) as other:
        http.credentials = f"user:{SECRET}"
        http.respond = lambda _method, path, *_: (
            301, {"Location": f"http://127.0.0.1:{other.server_port}{path}"}, b""
        )  # fmt: skip
        failure = cloner.failure(http.url("site.git"), credentials=token(http))
        assert failure.code is FailureCode.REPOSITORY_NOT_FOUND
        assert not other.requests


SAME = ["https://GIT.example.com/x", "https://git.example.com:443/x", "HTTPS://git.EXAMPLE.com/y%2Fz"]
OTHER = [
    "https://git.example.com:8443/x",
    "https://git.example.com.evil.example/x",
    "https://evil.example/git.example.com",
    "https://evil.example/@git.example.com/x",
    "https://git.example.com@evil.example/x",
    "https://git.example.com%2f@evil.example/x",
    "https://git.example.com./x",
    "https://[::1]/x",
    "http://git.example.com/x",
    "ssh://git.example.com/x",
]


@pytest.mark.parametrize("url", [*SAME, *OTHER])
def test_which_addresses_get_the_token(url: str) -> None:
    credentials = RepositoryCredentials("token", "https://git.example.com:443", "user", SECRET)
    parsed = parse_repository_url(url)
    assert (credentials.add_to(parsed).password == SECRET) == (url in SAME)


@pytest.mark.parametrize("name", ["[::1]", "[0:0::1]"])
def test_addresses_of_ipv6_are_hosts_too(name: str) -> None:
    parsed = parse_repository_url(f"https://{name}:8443/x")
    assert RepositoryCredentials("token", parsed.origin, "u", "p").add_to(parsed).password == "p"


def test_a_commit_that_vanishes_before_it_is_fetched(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "r.git", {"index.html": "one"})
    old = git(http.root / "r.git", "rev-parse", "HEAD")

    def force_push(method: str, _path: str, _headers: Message, body: bytes) -> None:
        if method == "POST" and b"command=fetch" in body:
            http.respond = None
            (http.root / "r.git" / "index.html").write_text("two")
            git(http.root / "r.git", "commit", "--quiet", "--all", "--amend", "-m", "Instead")
            git(http.root / "r.git", "reflog", "expire", "--expire=now", "--all")
            git(http.root / "r.git", "gc", "--quiet", "--prune=now")

    http.respond = force_push
    # A deployment of the branch gets its present content.
    result = cloner.clone(http.url("r.git"))
    assert cloner.files(result) == {"index.html": b"two"}
    assert result.output.commit_sha != old
    assert f"Commit {old[:12]} was replaced by a force-push" in cloner.log.text
    # A deployment of the commit fails and says so.
    failure = cloner.failure(http.url("r.git"), commit_sha=old)
    assert (failure.code, "force-push" in failure.message) == (FailureCode.COMMIT_NOT_FOUND, True)


def test_a_commit_that_vanishes_afterwards_is_kept(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "r.git", {"index.html": "one"})
    first = cloner.clone(http.url("r.git"))
    git(http.root / "r.git", "checkout", "--quiet", "--orphan", "other")
    commit(http.root / "r.git", {"index.html": "two"})
    git(http.root / "r.git", "branch", "--force", "main", "other")
    git(http.root / "r.git", "reflog", "expire", "--expire=now", "--all")
    git(http.root / "r.git", "gc", "--quiet", "--prune=now")
    # The stages after it work on the snapshot, and so does a redeployment.
    assert cloner.files(first) == {"index.html": b"one"}
    again = cloner.clone(http.url("r.git"), commit_sha=first.output.commit_sha)
    assert (again.is_cache_hit, again.output) == (True, first.output)
    # A snapshot that is lost together with the commit can't be made again.
    cloner.store.delete(f"snapshots/ten_1/{first.output.source}.tar.zst")
    failure = cloner.failure(http.url("r.git"), commit_sha=first.output.commit_sha)
    assert failure.code is FailureCode.COMMIT_NOT_FOUND
