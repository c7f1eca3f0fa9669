"""The clone stage on real repositories, over file:// and git's HTTP back end."""

from __future__ import annotations

import ipaddress
import os
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from shared.errors import Cancelled, FailureCode, StageFailure
from shared.network.address_policy import AddressPolicy
from shared.plans import LIMITS, Plan
from shared.projects.repository_url import RepositoryPolicy, parse_repository_url
from tests.support.cloner import Cloner, MakeCloner, add_submodule
from tests.support.git_server import GitServer
from tests.support.repositories import commit, git, make_repository
from tests.support.stage_context import TENANT
from workers.stages.clone.addresses import Network
from workers.stages.clone.deadline import Deadline
from workers.stages.clone.git.confinement import Confinement
from workers.stages.clone.git.runner import Git, GitLimits

pytestmark = pytest.mark.integration

ABSENT_SHA = "0123456789abcdef0123456789abcdef01234567"


def test_a_branch_becomes_a_tree_without_history(cloner: Cloner, tmp_path: Path) -> None:
    url = make_repository(tmp_path / "with space", {"index.html": "one", "docs/a.md": "a"})
    sha = commit(tmp_path / "with space", {"index.html": "two"}, "Second\n\nmore")
    result = cloner.clone(url)
    assert result.output.commit_sha == sha
    assert result.facts == {"commit_sha": sha, "commit_message": "Second\n\nmore"}
    assert cloner.files(result) == {"index.html": b"two", "docs/a.md": b"a"}


def test_the_same_commit_is_not_fetched_again(cloner: Cloner, make_cloner: MakeCloner, tmp_path: Path) -> None:
    url = make_repository(tmp_path / "r", {"index.html": "one"})
    first = cloner.clone(url)
    again = cloner.clone(url)
    elsewhere = make_cloner().clone(url)
    assert (first.is_cache_hit, again.is_cache_hit, elsewhere.is_cache_hit) == (False, True, True)
    assert first.output == again.output == elsewhere.output
    clean = cloner.clone(url, clean=True)
    assert (clean.is_cache_hit, clean.output) == (False, first.output)


def test_a_lost_snapshot_is_fetched_again(cloner: Cloner, tmp_path: Path) -> None:
    url = make_repository(tmp_path / "r", {"index.html": "one"})
    first = cloner.clone(url)
    cloner.store.delete(f"snapshots/{TENANT}/{first.output.source}.tar.zst")
    again = cloner.clone(url)
    assert (again.is_cache_hit, again.output) == (False, first.output)
    assert cloner.snapshots.exists(TENANT, first.output.source)


def test_an_older_commit_by_its_sha(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "r.git", {"index.html": "one"})
    old = git(http.root / "r.git", "rev-parse", "HEAD")
    commit(http.root / "r.git", {"index.html": "two"})
    result = cloner.clone(http.url("r.git"), commit_sha=old)
    assert cloner.files(result) == {"index.html": b"one"}
    # An annotated tag has a SHA of its own, which is no commit's.
    git(http.root / "r.git", "tag", "--annotate", "--message=first", "--no-sign", "v1", old)
    tag = git(http.root / "r.git", "rev-parse", "v1")
    assert cloner.clone(http.url("r.git"), commit_sha=tag).facts == result.facts
    assert (
        f"but a tag of this name. Deploy its commit: {old}." in cloner.failure(http.url("r.git"), branch="v1").message
    )


def test_an_older_commit_of_a_server_that_gives_out_branches_only(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "r.git", {"index.html": "one"})
    old = git(http.root / "r.git", "rev-parse", "HEAD")
    commit(http.root / "r.git", {"index.html": "two"})
    git(http.root / "r.git", "config", "uploadpack.allowAnySHA1InWant", "false")
    http.is_old = True
    result = cloner.clone(http.url("r.git"), commit_sha=old)
    assert cloner.files(result) == {"index.html": b"one"}
    assert "unadvertised object" in cloner.log.text
    assert cloner.failure(http.url("r.git"), commit_sha=ABSENT_SHA).code is FailureCode.COMMIT_NOT_FOUND


@pytest.mark.parametrize(
    ("code", "values", "said"),
    [
        (FailureCode.BRANCH_NOT_FOUND, {"branch": "absent"}, "Its default branch is 'main'"),
        (FailureCode.BRANCH_NOT_FOUND, {"branch": "--upload-pack=x"}, "can't be the name"),
        (FailureCode.BRANCH_NOT_FOUND, {"branch": "ma*"}, "can't be the name"),
        (FailureCode.COMMIT_NOT_FOUND, {"commit_sha": ABSENT_SHA}, ABSENT_SHA),
        (FailureCode.COMMIT_NOT_FOUND, {"commit_sha": "0123abc"}, "all 40"),
        (FailureCode.ROOT_DIRECTORY_NOT_FOUND, {"root_directory": "absent"}, "rootDirectory"),
        (FailureCode.ROOT_DIRECTORY_NOT_FOUND, {"root_directory": "index.html"}, "rootDirectory"),
        (FailureCode.ROOT_DIRECTORY_NOT_FOUND, {"root_directory": "../.."}, "rootDirectory"),
        (FailureCode.ROOT_DIRECTORY_NOT_FOUND, {"root_directory": "link"}, "rootDirectory"),
        (FailureCode.REPOSITORY_TOO_LARGE, {"disk_bytes": 1000}, "disk"),
    ],
)
def test_failures_that_the_user_can_fix(
    cloner: Cloner, tmp_path: Path, code: FailureCode, values: dict[str, Any], said: str
) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "link").symlink_to("/etc")
    failure = cloner.failure(make_repository(tmp_path / "r", {"index.html": "one"}), **values)
    assert (failure.code, said in failure.message) == (code, True), failure.message


def test_the_root_directory_is_checked_on_a_cache_hit_too(cloner: Cloner, tmp_path: Path) -> None:
    url = make_repository(tmp_path / "r", {"site/index.html": "one"})
    assert cloner.clone(url, root_directory="site").output == cloner.clone(url, root_directory="./site/").output
    assert cloner.failure(url, root_directory="other").code is FailureCode.ROOT_DIRECTORY_NOT_FOUND


def test_an_empty_and_an_absent_repository(cloner: Cloner, tmp_path: Path, http: GitServer) -> None:
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "--quiet")
    assert cloner.failure((tmp_path / "empty").as_uri()).code is FailureCode.REPOSITORY_EMPTY
    assert cloner.failure((tmp_path / "absent").as_uri()).code is FailureCode.REPOSITORY_NOT_FOUND
    assert cloner.failure(http.url("absent.git")).code is FailureCode.REPOSITORY_NOT_FOUND


def test_credentials_reach_the_server_and_nothing_else(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "r.git", {"index.html": "one"})
    http.credentials = "user:s3cret-passw0rd"
    asked = cloner.failure(http.url("r.git"))
    refused = cloner.failure(http.url("r.git", "user:wr0ng-passw0rd"))
    assert asked.code is refused.code is FailureCode.REPOSITORY_AUTHENTICATION
    assert "asks for credentials" in asked.message
    assert "wr0ng-passw0rd" not in refused.message + cloner.log.text
    result = cloner.clone(http.url("r.git", "user:s3cret-passw0rd"))
    assert cloner.files(result) == {"index.html": b"one"}
    assert "s3cret-passw0rd" not in cloner.log.text


def test_a_missing_suffix_is_added_but_no_redirect_is_followed(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "r.git", {"index.html": "one"})
    http.location = f"http://127.0.0.1:{http.server_port}/elsewhere.git"
    assert cloner.files(cloner.clone(http.url("r"))) == {"index.html": b"one"}
    failure = cloner.failure(http.url("moved"))
    assert failure.code is FailureCode.REPOSITORY_NOT_FOUND
    assert not [path for path in http.requests if path.startswith("/elsewhere.git")]


@pytest.mark.parametrize("host", ["127.0.0.1:1", "host.invalid"])
def test_an_unreachable_host(cloner: Cloner, host: str) -> None:
    failure = cloner.failure(f"http://{host}/r.git")
    assert failure.code is FailureCode.REPOSITORY_UNREACHABLE
    assert host.partition(":")[0] in failure.message


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/r.git", "https://[::1]/r.git", "https://169.254.169.254/r.git", "ssh://git@10.0.0.1/r.git",
     "https://localhost/r.git", "https://2130706433/r.git", "file:///etc", "http://127.0.0.1/r.git"],
)  # fmt: skip
def test_local_addresses_are_refused_where_they_are_not_allowed(make_cloner: MakeCloner, url: str) -> None:
    assert make_cloner(allow_local=False).failure(url).code is FailureCode.URL_FORBIDDEN


def test_a_name_of_many_silent_addresses_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = tuple(ipaddress.ip_network("127.0.0.0/24").hosts())
    monkeypatch.setattr("workers.stages.clone.addresses._admitted", lambda *_: addresses)
    cancelled, tried = threading.Event(), list[tuple[str, int]]()

    def connect(address: tuple[str, int], **_: Any) -> NoReturn:
        tried.append(address)
        if len(tried) == 10:
            cancelled.set()
        raise TimeoutError

    monkeypatch.setattr("socket.create_connection", connect)
    url = parse_repository_url("https://example.com/site.git")
    with pytest.raises(Cancelled):
        Network(RepositoryPolicy(AddressPolicy()), cancelled).reachable_address(url)
    assert [address for address, _ in tried] == [f"127.0.0.{number}" for number in (1, 2, 3, 4, 1, 2, 3, 4, 1, 2)]


def test_submodules_are_fetched_at_the_commit_that_is_named(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "theme.git", {"theme.css": "old"})
    old = git(http.root / "theme.git", "rev-parse", "HEAD")
    commit(http.root / "theme.git", {"theme.css": "new"})
    make_repository(http.root / "site.git", {"index.html": "one"})
    add_submodule(http.root / "site.git", "../theme.git", old)
    http.credentials = "user:s3cret-passw0rd"
    result = cloner.clone(http.url("site.git", "user:s3cret-passw0rd"))
    files = cloner.files(result)
    assert (files["theme/theme.css"], files["index.html"]) == (b"old", b"one")
    assert not [name for name in files if ".git/" in name]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("file:///etc", FailureCode.URL_FORBIDDEN),
        ("ext::sh -c id", FailureCode.URL_FORBIDDEN),
        ("-u./x", FailureCode.URL_FORBIDDEN),
        ("../absent.git", FailureCode.REPOSITORY_NOT_FOUND),
    ],
)
def test_a_submodule_that_is_refused_is_named(cloner: Cloner, http: GitServer, url: str, code: FailureCode) -> None:
    make_repository(http.root / "site.git", {"index.html": "one"})
    add_submodule(http.root / "site.git", url, ABSENT_SHA)
    failure = cloner.failure(http.url("site.git"))
    assert (failure.code, failure.message.startswith("Submodule theme: ")) == (code, True), failure.message


def test_a_list_of_more_submodules_than_can_be_fetched_is_refused(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "site.git", {"index.html": "site"})
    add_submodule(http.root / "site.git", "../theme.git", ABSENT_SHA)
    entry = '[submodule "%d"]\n\tpath = theme%d\n\turl = ../theme.git\n'
    modules = "".join(entry % (number, number) for number in range(50_000))
    (http.root / "site.git" / ".gitmodules").write_text(modules)
    git(http.root / "site.git", "add", ".gitmodules")
    git(http.root / "site.git", "commit", "--quiet", "-m", "Name many")
    failure = cloner.failure(http.url("site.git"))
    assert failure.code is FailureCode.REPOSITORY_TOO_LARGE
    assert ".gitmodules" in failure.message


def test_submodules_without_an_entry_are_counted_after_some(cloner: Cloner, tmp_path: Path) -> None:
    url = make_repository(tmp_path / "site", {"index.html": "site", ".gitmodules": ""})
    for number in range(30):
        git(tmp_path / "site", "update-index", "--add", "--cacheinfo", f"160000,{ABSENT_SHA},embedded{number}")
    git(tmp_path / "site", "commit", "--quiet", "-m", "Embed repositories")
    cloner.clone(url)
    assert cloner.log.text.count("left empty") == 20


def test_a_list_of_submodules_that_cannot_be_read_is_named(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "theme.git", {"theme.css": "new"})
    make_repository(http.root / "site.git", {"index.html": "one"})
    add_submodule(http.root / "site.git", "../theme.git", git(http.root / "theme.git", "rev-parse", "HEAD"))
    (http.root / "site.git" / ".gitmodules").write_text("[submodule")
    git(http.root / "site.git", "add", ".gitmodules")
    git(http.root / "site.git", "commit", "--quiet", "-m", "Break it")
    failure = cloner.failure(http.url("site.git"))
    assert (failure.code, ".gitmodules can't be read" in failure.message) == (FailureCode.CONFIGURATION_INVALID, True)


def test_a_link_out_of_the_repository_leaks_nothing(cloner: Cloner, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "out").symlink_to("../../../etc/passwd")
    failure = cloner.failure(make_repository(tmp_path / "r", {"index.html": "one"}))
    assert failure.code is FailureCode.OUTPUT_INVALID
    assert "out → ../../../etc/passwd" in failure.message


def test_cancelling_ends_git(cloner: Cloner, http: GitServer) -> None:
    http.hold = threading.Event()
    context = cloner.context(http.url("r.git"))
    outcome: list[Cancelled] = []

    def run() -> None:
        try:
            cloner.stage.run(context)
        except Cancelled as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not http.requests:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    started = [child for child in psutil.Process().children(recursive=True) if "git" in child.name()]
    assert started
    context.cancelled.set()
    thread.join(120)
    assert outcome
    # Git's killed child processes may take a moment to disappear.
    deadline = time.monotonic() + 60
    while alive := [child for child in started if is_alive(child)]:
        assert time.monotonic() < deadline, alive
        threading.Event().wait(0.02)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_time_of_the_stage_is_bounded(cloner: Cloner, http: GitServer) -> None:
    import dataclasses

    http.hold = threading.Event()
    context = cloner.context(http.url("r.git"))
    context = dataclasses.replace(context, limits=dataclasses.replace(context.limits, stage_timeout_seconds=1))
    with pytest.raises(StageFailure) as caught:
        cloner.stage.run(context)
    assert caught.value.code is FailureCode.TIMEOUT


def test_the_workers_own_git_configuration_plays_no_part(
    cloner: Cloner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    marker = tmp_path / "marker"
    (home / ".gitconfig").write_text(f'[core]\n\thooksPath = {home}\n[url "x://"]\n\tinsteadOf = file://\n')
    (home / "post-checkout").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (home / "post-checkout").chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", os.fspath(home))
    assert cloner.clone(make_repository(tmp_path / "r", {"index.html": "one"})).output.source
    assert not marker.exists()


def test_a_list_that_is_cut_off_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    deadline = Deadline(time.monotonic() + 300, threading.Event())
    with Confinement.opened(None, "depl_1", LIMITS[Plan.FREE]) as confinement:
        git = Git(tmp_path, GitLimits(1 << 30), deadline, lambda _: None, confinement=confinement)
        assert len(git.run_program(["head", "-c", "4000000", "/dev/zero"], tmp_path)) == 4_000_000
        assert len(git.run_program(["cat", "/dev/zero"], tmp_path, limit=1000)) == 1000
        with pytest.raises(StageFailure, match="more than 4 MiB") as caught:
            # Without end: the program is ended where its output is cut off.
            git.run_program(["cat", "/dev/zero"], tmp_path)
    assert caught.value.code is FailureCode.REPOSITORY_TOO_LARGE
