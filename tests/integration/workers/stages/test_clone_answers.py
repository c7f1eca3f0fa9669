"""Answers of git hosts that aren't a repository, and the messages about them."""

from __future__ import annotations

import tracemalloc
from email.message import Message
from pathlib import Path

import pytest

from shared.backoff import Backoff
from shared.errors import FailureCode, PlatformError, StageFailure
from shared.projects.repository_credentials import RepositoryCredentials
from shared.projects.repository_url import parse_repository_url
from tests.support.cloner import Cloner, add_submodule
from tests.support.git_server import GitServer, serving
from tests.support.repositories import git, make_repository
from workers.stages.clone.access import RepositoryAccess
from workers.stages.clone.git.failures import failure_of, wait_after
from workers.stages.clone.git.http_answers import HttpAnswer, read_trace, retry_after_seconds
from workers.stages.clone.git.runner import GitFailed
from workers.stages.install.lockfile_mismatch import raise_mismatch

pytestmark = pytest.mark.integration

Answer = tuple[int, dict[str, str], bytes]
_SMART = {"Content-Type": "application/x-git-upload-pack-advertisement"}
_HTML = {"Content-Type": "text/html; charset=utf-8"}
_NOT_FOUND, _REFUSED = FailureCode.REPOSITORY_NOT_FOUND, FailureCode.REPOSITORY_AUTHENTICATION
_UNREACHABLE = FailureCode.REPOSITORY_UNREACHABLE


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ((200, _HTML, b"<form>Sign in</form>"), _NOT_FOUND, "answers 200 with a web page (text/html)"),
        ((200, {"Content-Type": "application/json"}, b"{}"), _NOT_FOUND, "with JSON"),
        ((200, {}, b""), _NOT_FOUND, "a response without a content type"),
        ((200, {"Content-Type": "text/plain"}, b"0123456789abcdef0123456789abcdef01234567\trefs/heads/main\n"),
         _NOT_FOUND, "text/plain"),
        ((200, _SMART, b"<html>not git</html>"), _UNREACHABLE, "speak git's protocol"),
        ((404, _HTML, b"<h1>Not found</h1>"), _NOT_FOUND, "There is no repository at"),
        ((410, {}, b""), _NOT_FOUND, "There is no repository at"),
        ((401, _HTML, b"<h1>Sign in</h1>"), _REFUSED, "asks for credentials"),
        ((403, _HTML, b"<h1>No</h1>"), _REFUSED, "cloudify credentials set"),
        ((302, {"Location": "/users/sign_in?to=secret-query"}, b""), _REFUSED, "/users/sign_in, a sign-in page"),
        ((302, {"Location": "/elsewhere.git"}, b""), _NOT_FOUND, "redirects to another address"),
        ((301, {"Location": "https://git.example.com:8443/acme/oauth-login.git/info/refs?service=x"}, b""),
         _NOT_FOUND, "redirects to https://git.example.com:8443/acme/oauth-login.git. If"),
        ((204, {}, b""), _NOT_FOUND, "answers 204"),
        ((429, {"Retry-After": "3600"}, b""), _UNREACHABLE, "answers 429 (too many requests)"),
        ((403, {"X-RateLimit-Remaining": "0", "Retry-After": "0"}, b""), _UNREACHABLE, "answers 403 (too many"),
        ((500, {"Retry-After": "0"}, b""), _UNREACHABLE, "answers 500 (a server error)"),
        ((503, {"Retry-After": "0"}, b""), _UNREACHABLE, "answers 503 (a server error)"),
        ((522, {"Retry-After": "0"}, b""), _UNREACHABLE, "The address is not the problem: deploy again later."),
    ],
    ids=["sign-in page", "json", "nothing", "files alone", "not the protocol", "404", "410", "401", "403",
         "redirect to sign in", "elsewhere", "moved", "204", "429", "rate limit", "500", "503", "522"],
)  # fmt: skip
def test_an_answer_is_reported_as_what_it_is(
    cloner: Cloner, http: GitServer, answer: Answer, code: FailureCode, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.stages.clone.fetch.RETRY", Backoff(0.0, 0.0))
    http.respond = lambda _method, _path, _headers, _body: answer
    failure = cloner.failure(http.url("r.git"))
    assert (failure.code, said in failure.message) == (code, True), failure.message
    assert "secret-query" not in failure.message
    assert "Push one" not in failure.message
    if answer[1].get("Retry-After") == "0":
        assert len(http.requests) == 4
        assert f"answers {answer[0]}; trying again in 0 s" in cloner.log.text
    else:
        assert "trying again" not in cloner.log.text


@pytest.mark.parametrize("rest", [(404, {}, b""), (200, {}, b"")], ids=["404", "200"])
@pytest.mark.parametrize("first", [(200, {"Content-Type": "application/json"}, b"{}"), (200, {}, b"")])
def test_a_server_of_something_else_is_no_empty_repository(
    cloner: Cloner, http: GitServer, first: Answer, rest: Answer
) -> None:
    http.respond = lambda _method, path, _headers, _body: first if "/info/refs" in path else rest
    failure = cloner.failure(http.url("r.git"))
    assert (failure.code, "answers 200 with" in failure.message) == (_NOT_FOUND, True), failure.message


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [(None, 2.0), ("0", 2.0), ("Mon, 01 Jan 2024 00:00:00 GMT", 2.0), ("5", 5.0), ("60", 60.0), ("61", None)],
)
def test_how_long_a_host_is_waited_for(asked: str | None, seconds: float | None) -> None:
    answer = HttpAnswer(503, {} if asked is None else {"retry-after": asked})
    assert wait_after(answer, 2.0) == seconds


def test_a_full_disk_of_the_git_host_is_not_taken_for_the_workers() -> None:
    url = parse_repository_url("https://git.example.com/r.git")
    said = "remote: error: unable to write: No space left on device\nfatal: remote error: No space left on device\n"
    assert isinstance(failure_of(GitFailed(said, 128), url, is_last_attempt=True), StageFailure)
    ours = GitFailed(said, 128, ["unable to write file .git/objects/pack/tmp: No space left on device"])
    assert isinstance(failure_of(ours, url, is_last_attempt=True), PlatformError)


def test_a_host_that_recovers_is_waited_for(cloner: Cloner, http: GitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.stages.clone.fetch.RETRY", Backoff(0.0, 0.0))
    make_repository(http.root / "r.git", {"index.html": "one"})
    answers: list[Answer] = [(429, {"Retry-After": "1"}, b""), (503, {}, b"")]
    http.respond = lambda _method, _path, _headers, _body: answers.pop(0) if answers else None
    assert cloner.files(cloner.clone(http.url("r.git"))) == {"index.html": b"one"}
    assert "answers 429; trying again in 1 s" in cloner.log.text


def test_a_pack_that_breaks_off_is_asked_for_again(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "r.git", {"index.html": "one"})
    broken: list[str] = []

    def respond(method: str, path: str, _headers: Message, body: bytes) -> Answer | None:
        if method == "POST" and b"command=fetch" in body and not broken:
            broken.append(path)
            pack = b"000dpackfile\n" + b"0009\x01PACK"
            return 200, {"Content-Type": "application/x-git-upload-pack-result"}, pack
        return None

    http.respond = respond
    assert cloner.files(cloner.clone(http.url("r.git"))) == {"index.html": b"one"}
    assert broken


def test_an_empty_repository_is_still_empty(cloner: Cloner, http: GitServer) -> None:
    (http.root / "empty.git").mkdir()
    git(http.root / "empty.git", "init", "--quiet", "--bare")
    assert cloner.failure(http.url("empty.git")).code is FailureCode.REPOSITORY_EMPTY


def test_the_advice_for_a_private_submodule_elsewhere_works(cloner: Cloner, http: GitServer, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with serving(tmp_path / "other") as other:
        make_repository(other.root / "theme.git", {"theme.css": "one"})
        make_repository(http.root / "site.git", {"index.html": "one"})
        sha = git(other.root / "theme.git", "rev-parse", "HEAD")
        add_submodule(http.root / "site.git", other.url("theme.git"), sha)
        http.credentials = other.credentials = "user:s3cret-passw0rd"
        origin = f"http://127.0.0.1:{http.server_port}"
        credentials = RepositoryCredentials("token", origin, user="user", password="s3cret-passw0rd")
        failure = cloner.failure(http.url("site.git"), credentials=credentials)
        assert failure.code is FailureCode.REPOSITORY_AUTHENTICATION
        assert f"({origin}). Name a copy on that host" in failure.message
        # A copy on the project's own host, as the message says.
        (other.root / "theme.git").rename(http.root / "theme.git")
        (http.root / "site.git" / ".gitmodules").write_text(
            f'[submodule "t"]\n\tpath = theme\n\turl = {http.url("theme.git")}\n'
        )
        git(http.root / "site.git", "add", ".gitmodules")
        git(http.root / "site.git", "commit", "--quiet", "-m", "Name the copy")
        files = cloner.files(cloner.clone(http.url("site.git"), credentials=credentials))
        assert files["theme/theme.css"] == b"one"


@pytest.mark.parametrize(
    ("own", "submodule", "said"),
    [
        ("https://github.com/acme/site", "git@github.com:acme/theme.git",
         "as https://github.com/…, or relative to it (../name.git)"),
        ("git@github.com:acme/site.git", "https://github.com/acme/theme", "as ssh://git@github.com/…"),
        ("https://github.com/acme/site", "git@git.example.com:acme/theme.git", "Name a copy on that host"),
        ("git@github.com:acme/site.git", "git@github.com:acme/theme.git", "cloudify credentials set --key"),
        ("https://github.com/acme/site", "https://github.com/acme/theme", "set an access token"),
    ],
)  # fmt: skip
def test_the_advice_for_a_private_submodule_can_be_followed(own: str, submodule: str, said: str) -> None:
    repository, url = parse_repository_url(own), parse_repository_url(submodule)
    access = RepositoryAccess(repository, None, None)
    try:
        access.authorise(url)
        error = GitFailed("fatal: Authentication failed for x", 128)
        failure = access.with_advice(failure_of(error, url, is_last_attempt=True), url)
    except StageFailure as raised:
        failure = raised
    assert isinstance(failure, StageFailure)
    assert (failure.code, said in failure.message) == (_REFUSED, True), failure.message
    assert ("credentials set" in failure.message) == (repository.origin == url.origin)


def test_an_ssh_account_that_may_not_log_in() -> None:
    url = parse_repository_url("ssh://someone@git.example.com/r.git")
    error = GitFailed("fatal: protocol error: bad line length character: This\n", 128)
    failure = failure_of(error, url, is_last_attempt=True)
    assert isinstance(failure, StageFailure)
    assert "it begins with 'This'" in failure.message
    assert "user name" in failure.message


def test_an_answer_of_a_proxy_is_not_taken_for_the_hosts(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    tunnel = (
        "12:00:00.1 http.c:800 => Send header: CONNECT git.example.com:443 HTTP/1.1\n"
        "12:00:00.2 http.c:800 <= Recv header: HTTP/1.1 200 Connection established\n"
    )
    trace.write_text(tunnel)
    assert read_trace(trace) == []
    trace.write_text(
        tunnel
        + "12:00:00.3 http.c:800 => Send header: GET /site.git/info/refs?service=git-upload-pack HTTP/2\n"
        + "12:00:00.4 http.c:800 <= Recv header: HTTP/2 503\n"
        + "12:00:00.5 http.c:800 <= Recv header: retry-after: 7\n"
    )
    assert read_trace(trace) == [HttpAnswer(503, {"retry-after": "7"})]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("", None),
        ("1 Jan 999999999999999999999 00:00:00", None),
        ("Thu, 1 Jan 2026 00:00:00 +999999999999999999999", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after_seconds(value) == seconds


@pytest.mark.parametrize(
    ("printed", "lockfile"),
    [
        (b" ERR_PNPM_LOCKFILE_CONFIG_MISMATCH  Cannot proceed with the frozen installation. The current \"overrides\"",
         "pnpm-lock.yaml"),
        (b"Error: pyproject.toml changed significantly since poetry.lock was last generated.", "poetry.lock"),
        (b"npm error The `npm ci` command can only install with an existing package-lock.json or", "package-lock.json"),
        (b"Your Pipfile.lock (af) is out of date. Expected: (bc).", "Pipfile.lock"),
        (b"error: lockfile had changes, but lockfile is frozen", "bun.lock"),
        (b"YN0028: The lockfile would have been modified by this install", "yarn.lock"),
        (b"error: Unable to find lockfile at `uv.lock`. To create a lockfile, run `uv lock`", "uv.lock"),
    ],
)  # fmt: skip
def test_lockfiles_that_do_not_fit(printed: bytes, lockfile: str) -> None:
    with pytest.raises(StageFailure, match=lockfile) as caught:
        raise_mismatch(printed)
    assert caught.value.code is FailureCode.LOCKFILE_MISMATCH
    assert "There is also" not in caught.value.message
    # The other one may be the one that is kept up to date.
    with pytest.raises(StageFailure, match=f"delete {lockfile}, or choose") as caught:
        raise_mismatch(printed, {"other.lock": "other"})
    assert "There is also other.lock" in caught.value.message
    assert "(value: other)" in caught.value.message


def test_a_server_of_endless_branches_costs_little(cloner: Cloner, http: GitServer) -> None:
    def lines(*texts: bytes) -> bytes:
        return b"".join(b"%04x%s\n" % (len(text) + 5, text) for text in texts) + b"0000"

    advertised = lines(*(b"%040x refs/heads/b%07d" % (number, number) for number in range(1, 200_000)))
    first = lines(b"# service=git-upload-pack") + lines(b"version 2", b"ls-refs=unborn", b"fetch=shallow")

    def respond(method: str, _path: str, _headers: Message, _body: bytes) -> Answer:
        kind = "result" if method == "POST" else "advertisement"
        return 200, {"Content-Type": f"application/x-git-upload-pack-{kind}"}, advertised if method == "POST" else first

    http.respond = respond
    tracemalloc.start()
    try:
        failure = cloner.failure(http.url("r.git"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (failure.code, "It has: b" in failure.message) == (FailureCode.BRANCH_NOT_FOUND, True)
    assert peak < 20 << 20
