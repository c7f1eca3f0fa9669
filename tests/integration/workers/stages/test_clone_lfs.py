"""Files in Git LFS, from a server that follows the specification and from ones that don't."""

from __future__ import annotations

import hashlib
import itertools
import math
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from shared.backoff import Backoff
from shared.errors import Cancelled, FailureCode, StageFailure
from shared.projects.repository_credentials import RepositoryCredentials
from shared.projects.repository_url import parse_repository_url
from tests.support.cloner import Cloner
from tests.support.git_server import GitServer, serving
from tests.support.lfs_server import CONTENT, OID, TRACKED, Answer, LfsStore, pointer
from tests.support.repositories import commit, git, make_repository
from workers.stages.clone.addresses import Route
from workers.stages.clone.deadline import Deadline
from workers.stages.clone.lfs.client import Endpoint, LfsClient
from workers.stages.clone.lfs.connections import LfsConnections
from workers.stages.clone.lfs.objects import LfsObject

pytestmark = pytest.mark.integration


@pytest.fixture
def lfs(http: GitServer) -> LfsStore:
    return LfsStore(http)


def site(http: GitServer, files: dict[str, str] | None = None, name: str = "site.git") -> str:
    make_repository(http.root / name, {".gitattributes": TRACKED, "big.bin": pointer(), **(files or {})})
    return http.url(name)


def test_content_takes_the_place_of_pointers(cloner: Cloner, http: GitServer, lfs: LfsStore) -> None:
    lfs.objects[hashlib.sha256(b"small").hexdigest()] = b"small"
    files = {"a/b/same.bin": pointer(), "small.bin": pointer(b"small"), "untracked.txt": pointer(), "own.bin": "x"}
    url = site(http, files)
    (http.root / "site.git" / "big.bin").chmod(0o755)
    commit(http.root / "site.git", {})
    http.credentials = "user:s3cret-passw0rd"
    credentials = RepositoryCredentials("token", f"http://127.0.0.1:{http.server_port}", "user", "s3cret-passw0rd")
    result = cloner.clone(url, credentials=credentials)
    found = cloner.files(result)
    assert found["big.bin"] == found["a/b/same.bin"] == CONTENT
    assert (found["small.bin"], found["own.bin"]) == (b"small", b"x")
    # Without the attribute git leaves a pointer alone, and so does a clone here.
    assert found["untracked.txt"] == pointer().encode()
    with cloner.snapshots.attach("ten_1", result.output.source) as tree:
        assert (tree / "big.bin").stat().st_mode & 0o111
        assert not (tree / "small.bin").stat().st_mode & 0o111
    # Each object is fetched once, and what the commit was fetched with is kept.
    assert [path.partition("?")[0] for _, path, _ in lfs.asked].count(f"/storage/{OID}") == 1
    assert "s3cret" not in cloner.log.text
    assert cloner.clone(url, credentials=credentials).is_cache_hit


@pytest.mark.parametrize("attribute", ["error:x", "fatal:x", "filter"])
def test_attributes_that_git_complains_of_are_no_failure(cloner: Cloner, tmp_path: Path, attribute: str) -> None:
    url = make_repository(tmp_path / "r", {".gitattributes": f"* {attribute}\n", "big.bin": pointer()})
    assert cloner.files(cloner.clone(url))["big.bin"] == pointer().encode()


def test_submodules_have_theirs(cloner: Cloner, http: GitServer, lfs: LfsStore) -> None:
    site(http, name="theme.git")
    sha = git(http.root / "theme.git", "rev-parse", "HEAD")
    make_repository(http.root / "site.git", {".gitmodules": '[submodule "t"]\n\tpath = t\n\turl = ../theme.git\n'})
    git(http.root / "site.git", "update-index", "--add", "--cacheinfo", f"160000,{sha},t")
    git(http.root / "site.git", "commit", "--quiet", "-m", "Add")
    assert cloner.files(cloner.clone(http.url("site.git")))["t/big.bin"] == CONTENT


def test_a_local_repository_has_its_own_storage(cloner: Cloner, tmp_path: Path) -> None:
    url = make_repository(tmp_path / "r", {".gitattributes": TRACKED, "big.bin": pointer()})
    failure = cloner.failure(url)
    assert (failure.code, failure.message.startswith("big.bin: ")) == (FailureCode.REPOSITORY_LFS_MISSING, True)
    stored = tmp_path / "r" / ".git" / "lfs" / "objects" / OID[:2] / OID[2:4] / OID
    stored.parent.mkdir(parents=True)
    stored.write_bytes(CONTENT)
    assert cloner.files(cloner.clone(url))["big.bin"] == CONTENT


@pytest.mark.parametrize("path", ["/x/info/lfs", "/", ""])
def test_lfsconfig_names_another_server_which_gets_no_credentials(
    cloner: Cloner, http: GitServer, tmp_path: Path, path: str
) -> None:
    with serving(tmp_path) as other:
        store = LfsStore(other)
        url = site(http, {".lfsconfig": f"[lfs]\n\turl = http://127.0.0.1:{other.server_port}{path}\n"})
        http.credentials = "user:s3cret-passw0rd"
        origin = f"http://127.0.0.1:{http.server_port}"
        credentials = RepositoryCredentials("token", origin, "user", "s3cret-passw0rd")
        assert cloner.files(cloner.clone(url, credentials=credentials))["big.bin"] == CONTENT
        assert [asked[2] for asked in store.asked] == [None, None]


REFUSED = (
    "file:///etc/passwd",
    "ftp://127.0.0.1/x",
    "ext::sh -c id",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "http://",
    "http://[::1/x",
    "http://127.0.0.1:99999/x",
    "http://127.0.0.1/\r\nX: y",
    "//127.0.0.1/x",
    "/etc/passwd",
)


def test_addresses_that_are_refused(cloner: Cloner, http: GitServer, lfs: LfsStore) -> None:
    url = site(http)
    for lfs.href in REFUSED:
        failure = cloner.failure(url)
        assert failure.code is FailureCode.URL_FORBIDDEN, (lfs.href, failure.message)


def test_lfsconfig_may_not_lead_elsewhere(cloner: Cloner, http: GitServer, lfs: LfsStore) -> None:
    url = site(http)
    for named in ("file:///etc", "ssh://git@127.0.0.1/x", "ext::sh -c id", "-oProxyCommand=id", "x"):
        commit(http.root / "site.git", {".lfsconfig": f'[lfs]\n\turl = "{named}"\n'})
        failure = cloner.failure(url)
        assert (failure.code, failure.message.startswith(".lfsconfig: ")) == (FailureCode.URL_FORBIDDEN, True)
    assert not lfs.asked


BROKEN: list[tuple[dict[str, Any], FailureCode]] = [
    ({"objects": {}}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"sent": (200, {}, b"something else")}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"sent": (200, {}, CONTENT + b"more")}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"sent": (200, {}, CONTENT[:-1] + b"x")}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"sent": (404, {}, b"")}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"sent": (302, {"Location": "file:///etc/passwd"}, b"")}, FailureCode.URL_FORBIDDEN),
    ({"sent": (302, {"Location": "/storage/again"}, b"")}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"sent": (403, {}, b"")}, FailureCode.REPOSITORY_AUTHENTICATION),
    ({"action": {"header": {"X": "a\r\nHost: b"}}}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"action": {"header": [1]}}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"action": {"href": 3}}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"batch": (302, {"Location": "http://127.0.0.1:1/"}, b"")}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"batch": (401, {}, b"")}, FailureCode.REPOSITORY_AUTHENTICATION),
    ({"batch": (404, {}, b"")}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"batch": (200, {}, b"[" * 100_000)}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"batch": (200, {}, b'{"objects": [3, null]}')}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"batch": (200, {}, b'{"objects": [{"oid": []}]}')}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"batch": (200, {}, b" " * (5 << 20))}, FailureCode.REPOSITORY_LFS_MISSING),
    ({"batch": (200, {}, b'{"transfer": "ssh", "objects": []}')}, FailureCode.REPOSITORY_LFS_MISSING),
]


def test_servers_that_break_the_rules(cloner: Cloner, http: GitServer) -> None:
    url = site(http)
    for values, code in BROKEN:
        store = LfsStore(http)
        for name, value in values.items():
            setattr(store, name, value)
        failure = cloner.failure(url)
        assert failure.code is code, (values, failure.message)
        assert "s1gned" not in failure.message + cloner.log.text


def test_the_file_that_is_missing_is_named(cloner: Cloner, http: GitServer, lfs: LfsStore) -> None:
    url = site(http)
    answers: list[Answer] = [(404, {}, b""), (200, {}, b"something else")]
    for lfs.sent in answers:
        assert cloner.failure(url).message.startswith("big.bin: ")
    lfs.objects.clear()
    assert cloner.failure(url).message.startswith("big.bin: ")


@pytest.mark.parametrize(
    ("answer", "code", "said", "times"),
    [
        ((503, {"Retry-After": "0"}, b""), FailureCode.REPOSITORY_UNREACHABLE, "answers 503 (a server error)", 4),
        ((429, {"Retry-After": "0"}, b""), FailureCode.REPOSITORY_UNREACHABLE, "answers 429 (too many requests)", 4),
        ((429, {"Retry-After": "900"}, b""), FailureCode.REPOSITORY_UNREACHABLE, "again in 900 seconds", 1),
        ((507, {}, b""), FailureCode.REPOSITORY_LFS_MISSING, "over its quota (status 507)", 1),
        ((509, {}, b""), FailureCode.REPOSITORY_LFS_MISSING, "over its quota (status 509)", 1),
    ],
)
def test_a_server_in_trouble_is_waited_for_and_then_reported(
    cloner: Cloner,
    http: GitServer,
    lfs: LfsStore,
    answer: Answer,
    code: FailureCode,
    said: str,
    times: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("workers.stages.clone.lfs.client.RETRY", Backoff(0.0, 0.0))
    url = site(http)
    lfs.sent = answer
    failure = cloner.failure(url)
    assert (failure.code, said in failure.message) == (code, True), failure.message
    assert len([asked for asked in lfs.asked if asked[0] == "GET"]) == times
    lfs.sent = None
    assert cloner.files(cloner.clone(url))["big.bin"] == CONTENT


def test_cancelling_ends_the_download(cloner: Cloner, http: GitServer, lfs: LfsStore) -> None:
    context = cloner.context(site(http))

    def cancel(method: str, path: str, headers: Message, body: bytes) -> Answer | None:
        if path.startswith("/storage/"):
            context.cancelled.set()
        return lfs.respond(method, path, headers, body)

    http.respond = cancel
    with pytest.raises(Cancelled):
        cloner.stage.run(context)


@contextmanager
def dripping(content: bytes) -> Iterator[int]:
    """The port of a server that answers with a byte now and then, and never with the last one."""
    ended = threading.Event()

    def drip() -> None:
        with listener.accept()[0] as connection, suppress(OSError):
            for byte in itertools.chain(content, itertools.repeat(65)):
                connection.sendall(bytes((byte,)))
                if ended.wait(0.02):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(2) as threads:
        # The address is tried by a connection of its own, before anything is asked.
        threads.submit(drip)
        threads.submit(drip)
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n"


@pytest.mark.parametrize(
    ("scheme", "content"),
    [("https", b"\x16\x03\x03\x40\x00"), ("http", HEAD + b"X: "), ("http", HEAD + b"\r\n")],
    ids=["the handshake", "the head", "the content"],
)
@pytest.mark.parametrize("what", ["batch", "object"])
def test_a_server_that_sends_byte_by_byte_does_not_hold_up_a_cancellation(
    cloner: Cloner, http: GitServer, lfs: LfsStore, tmp_path: Path, scheme: str, content: bytes, what: str
) -> None:
    started = time.monotonic()
    context = cloner.context("https://git.example.com/r.git")
    ending = threading.Timer(1, context.cancelled.set)
    with dripping(content) as port, cloner.sessions.open(context) as session:
        ending.start()
        lfs.href = f"{scheme}://127.0.0.1:{port}/x"
        url = lfs.href if what == "batch" else http.url("site.git/info/lfs")
        with LfsClient(session) as client, pytest.raises(Cancelled):
            client.fetch(Endpoint(url, {}), {LfsObject(OID, len(CONTENT)): "big.bin"}, tmp_path)
    assert time.monotonic() - started < 3


def test_a_redirect_is_followed_without_the_credentials(
    cloner: Cloner, http: GitServer, lfs: LfsStore, tmp_path: Path
) -> None:
    url = site(http)
    lfs.action = {"header": {"Authorization": "Bearer action-s3cret", "Host": "elsewhere"}}
    with serving(tmp_path) as other:
        store = LfsStore(other)
        lfs.sent = (302, {"Location": f"http://127.0.0.1:{other.server_port}/storage/{OID}"}, b"")
        assert cloner.files(cloner.clone(url))["big.bin"] == CONTENT
        assert lfs.asked[-1][2] == "Bearer action-s3cret"
        assert [asked[2] for asked in store.asked] == [None]


def test_what_the_pointers_name_must_fit_the_plan(cloner: Cloner, http: GitServer, lfs: LfsStore) -> None:
    failure = cloner.failure(site(http, {"huge.bin": pointer(b"h", size=1 << 40)}))
    assert failure.code is FailureCode.REPOSITORY_TOO_LARGE
    assert not lfs.asked


@pytest.mark.parametrize("limits", [{"_MAXIMUM_FILES": 20}, {"_MAXIMUM_NAMES": 300}])
def test_more_files_than_can_be_fetched_are_refused_at_once(
    cloner: Cloner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]
) -> None:
    files = {f"file-{number:02}": pointer() for number in range(40)}
    url = make_repository(tmp_path / "r", {".gitattributes": "* filter=lfs\n", **files})
    for name, value in limits.items():
        monkeypatch.setattr(f"workers.stages.clone.lfs.fetcher.{name}", value)
    failure = cloner.failure(url)
    assert (failure.code, "files in Git LFS" in failure.message) == (FailureCode.REPOSITORY_TOO_LARGE, True)


def test_a_private_address_is_refused_where_local_ones_are_not_allowed(make_cloner: Any, tmp_path: Path) -> None:
    cloner = make_cloner(allow_local=False)
    refused = ["https://169.254.169.254/x", "https://127.0.0.1/x", "https://[::ffff:10.0.0.1]/x", "https://LOCALHOST/x"]
    with cloner.sessions.open(cloner.context("https://git.example.com/r.git")) as session:
        for url in [*refused, "http://example.com/x"]:
            with LfsClient(session) as client, pytest.raises(StageFailure) as caught:
                client.fetch(Endpoint(url, {}), {LfsObject(OID, 1): "big.bin"}, tmp_path)
            assert caught.value.code is FailureCode.URL_FORBIDDEN, url


def test_attributes_and_configuration_run_nothing(
    cloner: Cloner, http: GitServer, lfs: LfsStore, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    evil = f'[filter "evil"]\n\tsmudge = touch {marker}\n\tprocess = touch {marker}\n'
    evil += f"[core]\n\tsshCommand = touch {marker}\n"
    evil += f'[include]\n\tpath = {tmp_path}/more\n[url "file:///"]\n\tinsteadOf = http://127.0.0.1\n'
    evil += f'[lfs "customtransfer.x"]\n\tpath = touch\n\targs = {marker}\n[lfs]\n\tstandalonetransferagent = x\n'
    (tmp_path / "more").write_text("[lfs]\n\turl = file:///etc\n")
    attributes = TRACKED + "*.txt filter=evil diff=evil merge=evil textconv=evil\n"
    url = site(http, {".gitattributes": attributes, ".lfsconfig": evil, ".gitconfig": evil, "a.txt": "a"})
    assert cloner.files(cloner.clone(url))["big.bin"] == CONTENT
    assert not marker.exists()


def test_a_server_of_many_hosts_holds_few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    network = Mock(find_route=lambda url: Route(address=f"192.0.2.{url.port}"))
    monkeypatch.setattr("httpx.Client.close", lambda _client: closed.append("one"))
    connections = LfsConnections(Deadline(math.inf, threading.Event()), network, None)
    urls = [parse_repository_url(f"https://git.example.com:{port}/x") for port in range(1, 102)]
    first = connections.find(urls[0])
    for url in urls[:100]:
        assert connections.find(url)[0] == f"192.0.2.{url.port}"
        assert connections.find(urls[0]) is first
    assert len(closed) == 96
    with pytest.raises(StageFailure, match="more than 100 hosts"):
        connections.find(urls[100])
    connections.close()
    assert len(closed) == 100
