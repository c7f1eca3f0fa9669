"""Deployments that name no branch: what the repository's HEAD stands for, and what servers say about it."""

from __future__ import annotations

import urllib.request
from email.message import Message
from pathlib import Path

import pytest

from shared.errors import FailureCode
from tests.support.cloner import Cloner
from tests.support.git_server import GitServer
from tests.support.repositories import commit, git, make_repository

pytestmark = pytest.mark.integration

Answer = tuple[int, dict[str, str], bytes]


def with_branches(directory: Path, *names: str, branch: str = "trunk") -> str:
    """A repository with a branch that has two commits, and others with one of their own each."""
    url = make_repository(directory, {"index.html": branch}, branch=branch)
    commit(directory, {"more.html": "more"})
    for name in names:
        git(directory, "checkout", "--quiet", "-b", name, branch)
        commit(directory, {"index.html": name})
    git(directory, "checkout", "--quiet", branch)
    return url


def served_head(http: GitServer, head: str, sha: str) -> None:
    """The server says that HEAD stands for this name, whatever the repository has."""
    lines = (f"{sha} HEAD symref-target:{head}\n".encode(), f"{sha} refs/heads/next\n".encode())
    content = b"".join(b"%04x%s" % (len(line) + 4, line) for line in lines) + b"0000"

    def respond(_method: str, _path: str, _headers: Message, body: bytes) -> Answer | None:
        if b"command=ls-refs" not in body:
            return None
        return 200, {"Content-Type": "application/x-git-upload-pack-result"}, content

    http.respond = respond


def without_symref(http: GitServer, name: str) -> None:
    """A server of the first protocol that doesn't say what HEAD stands for."""
    http.is_old = True
    http.respond = None
    with urllib.request.urlopen(http.url(f"{name}/info/refs?service=git-upload-pack")) as answer:
        listed = answer.read().removeprefix(b"001e# service=git-upload-pack\n0000")
    first, rest = listed[4 : int(listed[:4], 16)], listed[int(listed[:4], 16) :]
    kept = b" ".join(word for word in first.rstrip(b"\n").split(b" ") if not word.startswith(b"symref=")) + b"\n"
    assert len(kept) < len(first), "the server named HEAD's branch"
    content = b"001e# service=git-upload-pack\n0000%04x%s%s" % (len(kept) + 4, kept, rest)

    def respond(method: str, _path: str, _headers: Message, _body: bytes) -> Answer | None:
        answer = (200, {"Content-Type": "application/x-git-upload-pack-advertisement"}, content)
        return answer if method == "GET" else None

    http.respond = respond


def test_the_default_branch_is_the_one_at_the_time(cloner: Cloner, tmp_path: Path) -> None:
    url = with_branches(tmp_path / "r", "next")
    first = cloner.clone(url, branch=None)
    assert cloner.files(first)["index.html"] == b"trunk"
    assert "its default branch" in cloner.log.text
    assert "No branch is named, so the repository's default branch is used: trunk." in cloner.log.text
    assert f"Branch trunk is at commit {first.output.commit_sha[:12]}." in cloner.log.text
    git(tmp_path / "r", "checkout", "--quiet", "next")
    assert cloner.files(cloner.clone(url, branch=None))["index.html"] == b"next"


@pytest.mark.parametrize("is_old", [True, False])
def test_over_http(cloner: Cloner, http: GitServer, is_old: bool) -> None:
    with_branches(http.root / "r.git", "main")
    http.is_old = is_old
    assert cloner.files(cloner.clone(http.url("r.git"), branch=None))["index.html"] == b"trunk"


def test_a_branch_that_is_not_there(cloner: Cloner, tmp_path: Path) -> None:
    many = [f"feature/{number}" for number in range(30)]
    url = with_branches(tmp_path / "r", *many, "gh-pages", "docs/site", branch="trunk")
    message = cloner.failure(url, branch="doc/site").message
    assert "has no branch 'doc/site'. Its default branch is 'trunk'; " in message
    assert "`cloudify settings unset repositoryBranch --project site` deploys that." in message
    assert "It also has: docs/site, gh-pages, feature/29, feature/28, " in message
    assert message.endswith(" and 22 more.")


def test_an_empty_repository(cloner: Cloner, tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--bare", "empty.git")
    failure = cloner.failure((tmp_path / "empty.git").as_uri(), branch=None)
    assert failure.code is FailureCode.REPOSITORY_EMPTY


@pytest.mark.parametrize(
    ("branch", "others", "taken", "said"),
    [
        ("trunk", (), b"trunk", "taking trunk, its only branch."),
        ("trunk", ("master", "topic"), b"master", "taking master, by its name."),
        ("trunk", ("topic",), None, "has no default branch: its HEAD names none that exists."),
    ],
)
def test_head_of_a_branch_that_does_not_exist(
    cloner: Cloner, tmp_path: Path, branch: str, others: tuple[str, ...], taken: bytes | None, said: str
) -> None:
    url = with_branches(tmp_path / "r", *others, branch=branch)
    git(tmp_path / "r", "symbolic-ref", "HEAD", "refs/heads/absent")
    if taken is not None:
        assert cloner.files(cloner.clone(url, branch=None))["index.html"] == taken
        assert said in cloner.log.text
        return
    failure = cloner.failure(url, branch=None)
    assert (failure.code, said in failure.message) == (FailureCode.BRANCH_NOT_FOUND, True), failure.message
    assert "`cloudify settings set repositoryBranch NAME --project site`" in failure.message
    assert failure.message.endswith("It has: trunk, topic.")


@pytest.mark.parametrize(
    ("revision", "said"),
    [
        ("trunk", "doesn't say which branch is its default; taking trunk, which has the commit of its HEAD."),
        ("trunk~1", "has no default branch: its HEAD is detached, at commit "),
    ],
)
def test_a_detached_head(cloner: Cloner, tmp_path: Path, revision: str, said: str) -> None:
    url = with_branches(tmp_path / "r", "topic")
    git(tmp_path / "r", "checkout", "--quiet", "--detach", revision)
    if revision == "trunk":
        assert cloner.files(cloner.clone(url, branch=None))["index.html"] == b"trunk"
        assert said in cloner.log.text
        return
    failure = cloner.failure(url, branch=None)
    assert (failure.code, said in failure.message) == (FailureCode.BRANCH_NOT_FOUND, True), failure.message
    # Its commit can be deployed all the same.
    sha = git(tmp_path / "r", "rev-parse", "HEAD")
    assert cloner.clone(url, branch=None, commit_sha=sha).output.commit_sha == sha
    assert "The deployment is of no branch: " in cloner.log.text


def test_head_that_leads_to_no_branch(cloner: Cloner, tmp_path: Path) -> None:
    url = with_branches(tmp_path / "r")
    git(tmp_path / "r", "update-ref", "refs/remotes/origin/main", "trunk~1")
    git(tmp_path / "r", "symbolic-ref", "HEAD", "refs/remotes/origin/main")
    assert "its HEAD is detached" in cloner.failure(url, branch=None).message


def test_a_server_that_does_not_say_what_head_stands_for(cloner: Cloner, http: GitServer) -> None:
    with_branches(http.root / "r.git", "aaa", "topic")
    git(http.root / "r.git", "branch", "copy", "topic")
    git(http.root / "r.git", "config", "safe.directory", "*")
    without_symref(http, "r.git")
    assert cloner.files(cloner.clone(http.url("r.git"), branch=None))["index.html"] == b"trunk"
    assert "taking trunk, which has the commit of its HEAD." in cloner.log.text
    # Two branches end with the commit, and neither has a usual name.
    git(http.root / "r.git", "checkout", "--quiet", "copy")
    without_symref(http, "r.git")
    assert cloner.failure(http.url("r.git"), branch=None).code is FailureCode.BRANCH_NOT_FOUND


@pytest.mark.parametrize(
    "name",
    [
        "refs/heads/\x1b[31mred",
        "refs/heads/a\rb",
        "refs/heads/tab\tb",
        "refs/heads/exe.\u202efdp",
        "refs/heads/" + "a" * 10_000,
        "refs/heads/../../../etc/passwd",
        "refs/heads/--upload-pack=touch",
        "refs/heads/",
    ],
)
def test_a_default_branch_with_a_hostile_name(cloner: Cloner, http: GitServer, name: str) -> None:
    with_branches(http.root / "r.git", "next")
    served_head(http, name, git(http.root / "r.git", "rev-parse", "next"))
    failure = cloner.failure(http.url("r.git"), branch=None)
    assert failure.code is FailureCode.BRANCH_NOT_FOUND
    assert len(failure.message) < 600
    assert failure.message.isascii()
    assert failure.message.isprintable()
    # It isn't shown as a default, either.
    assert "default branch is" not in cloner.failure(http.url("r.git"), branch="absent").message


def test_lines_that_a_server_smuggles_in_name_no_branch(cloner: Cloner, http: GitServer) -> None:
    with_branches(http.root / "r.git")
    evil = "0" * 40
    served_head(http, f"refs/heads/x\n{evil}\trefs/heads/trunk\nref: refs/heads/y", evil)
    failure = cloner.failure(http.url("r.git"), branch=None)
    assert failure.code in (FailureCode.COMMIT_NOT_FOUND, FailureCode.BRANCH_NOT_FOUND)
