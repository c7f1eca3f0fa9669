"""Clones where only a company's proxy reaches the outside: git, submodules, Git LFS and SSH go through it."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

import psutil
import pytest

from shared.db.database import Database
from shared.errors import Cancelled, FailureCode, PlatformError
from shared.projects.repository_credentials import RepositoryCredentials
from shared.projects.repository_url import parse_repository_url
from shared.settings import NetworkSettings
from tests.support.certificates import write_certificate
from tests.support.cloner import Cloner, MakeCloner
from tests.support.git_server import GitServer, serving
from tests.support.lfs_server import CONTENT, TRACKED, Answer, LfsStore, pointer
from tests.support.repositories import git, make_repository
from tests.support.ssh_server import make_key, running
from tests.support.stage_context import add_project
from tests.support.upstream_proxy import RunningProxy, running_proxy
from workers.stages.clone.proxy import CloneProxy

pytestmark = pytest.mark.integration

# Nobody resolves it but the proxy.
NAME = "git.example.invalid"
URL = f"https://{NAME}/site.git"
PASSWORD = "pr0xy/p@ss"
TOKEN = "s3cret-t0ken"
OTHER = "lfs.example.invalid"


@pytest.fixture
def https(tmp_path: Path) -> Iterator[GitServer]:
    write_certificate(tmp_path / "certificate.pem", NAME)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem")
    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served", tls=context) as server:
        make_repository(server.root / "site.git", {"index.html": "one"})
        yield server


@pytest.fixture
def proxy(https: GitServer) -> Iterator[RunningProxy]:
    with running_proxy({f"{NAME}:443": ("127.0.0.1", https.server_port)}, f"builder:{PASSWORD}") as proxy:
        yield proxy


@pytest.fixture
def cloner(make_cloner: MakeCloner, proxy: RunningProxy, tmp_path: Path) -> Cloner:
    return make_cloner(allow_local=False, egress_proxy=address(proxy), ca_bundle=tmp_path / "certificate.pem")


def address(proxy: RunningProxy, password: str = "pr0xy%2Fp%40ss") -> str:
    return f"http://builder:{password}@127.0.0.1:{proxy.port}"


def token(origin: str = f"https://{NAME}:443") -> RepositoryCredentials:
    return RepositoryCredentials("token", origin, "user", TOKEN)


class Processes:
    """Arguments and environment of what git runs when the server is first asked, which waits for that."""

    def __init__(self, server: GitServer) -> None:
        self._server = server
        self._hold = server.hold = threading.Event()
        self._found: list[str] = []
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._server.requests:
            threading.Event().wait(0.01)
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):  # one that has just ended
                if "git" in child.name():
                    self._found.append(f"{child.cmdline()} {child.environ()}")
        self._hold.set()

    def text(self) -> str:
        self._thread.join(120)
        return "\n".join(self._found)


def test_a_private_repository_with_submodules_and_lfs(cloner: Cloner, https: GitServer, proxy: RunningProxy) -> None:
    store = LfsStore(https)
    store.href = f"https://{NAME}/storage/%s"
    make_repository(https.root / "theme.git", {".gitattributes": TRACKED, "big.bin": pointer()})
    sha = git(https.root / "theme.git", "rev-parse", "HEAD")
    (https.root / "site.git" / ".gitmodules").write_text('[submodule "t"]\n\tpath = t\n\turl = ../theme.git\n')
    git(https.root / "site.git", "update-index", "--add", "--cacheinfo", f"160000,{sha},t")
    git(https.root / "site.git", "add", ".gitmodules")
    git(https.root / "site.git", "commit", "--quiet", "-m", "Add")
    https.credentials = f"user:{TOKEN}"
    context = cloner.context(URL, credentials=token())
    told = Processes(https)
    result = cloner.stage.run(context)
    files = cloner.files(result)
    assert (files["index.html"], files["t/big.bin"]) == (b"one", CONTENT)
    assert set(proxy.asked) == {f"{NAME}:443"}
    # The project's token is the origin's, the proxy's password is its own.
    basic = base64.b64encode(f"user:{TOKEN}".encode()).decode()
    assert all(head.lower().count("authorization:") == 1 and basic not in head for head in proxy.heads)
    kept = [path.read_bytes() for path in context.directory.rglob("*") if path.is_file()]
    basic = base64.b64encode(f"builder:{PASSWORD}".encode()).decode()
    assert "http.proxy" in told.text()
    for text in [*kept, *files.values(), cloner.log.text.encode(), told.text().encode()]:
        assert b"pr0xy" not in text
        assert basic.encode() not in text


def test_nothing_goes_out_unencrypted(make_cloner: MakeCloner, proxy: RunningProxy) -> None:
    """http:// is for the allowed networks, which are reached directly."""
    listed = make_cloner(egress_proxy=address(proxy))
    for host in (NAME, "1.1.1.1", "203.0.113.7"):
        for cloner in (listed, make_cloner(allow_local=False, egress_proxy=address(proxy))):
            assert cloner.failure(f"http://{host}/site.git").code is FailureCode.URL_FORBIDDEN
    assert not proxy.asked


def test_local_and_listed_hosts_are_reached_directly(
    make_cloner: MakeCloner, proxy: RunningProxy, tmp_path: Path
) -> None:
    (tmp_path / "local").mkdir()
    with serving(tmp_path / "local") as http:
        make_repository(http.root / "site.git", {"index.html": "one"})
        cloner = make_cloner(egress_proxy=address(proxy))
        assert cloner.files(cloner.clone(http.url("site.git"))) == {"index.html": b"one"}
    assert not proxy.asked
    # What isn't listed is refused, proxy or not.
    narrow = make_cloner(egress_proxy=address(proxy), egress_allowed_networks=("127.0.0.2/32",))
    assert narrow.failure(http.url("site.git")).code is FailureCode.URL_FORBIDDEN
    assert not proxy.asked


def test_a_public_address_goes_through_the_proxy(make_cloner: MakeCloner, proxy: RunningProxy) -> None:
    proxy.refusals = [403]
    failure = make_cloner(allow_local=False, egress_proxy=address(proxy)).failure("https://203.0.113.7:8443/site.git")
    assert (failure.code, proxy.asked) == (FailureCode.REPOSITORY_UNREACHABLE, ["203.0.113.7:8443"])


PRIVATE_HOSTS = ("127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1", "[::ffff:10.0.0.1]", "localhost", "2130706433")
# What resolves nowhere here, and what another program may read as an address or as its own host.
MISLEADING_HOSTS = ("0x7f.1", "127.0.0.1.", "x.localhost.", "1.2.3.4.5", "x.0x7f")


def test_private_addresses_are_refused_and_the_proxy_is_not_asked(cloner: Cloner, proxy: RunningProxy) -> None:
    for host in PRIVATE_HOSTS + MISLEADING_HOSTS:
        assert cloner.failure(f"https://{host}/site.git").code is FailureCode.URL_FORBIDDEN, host
    assert not proxy.asked


def test_names_of_the_proxy_alone_have_standard_ports(cloner: Cloner, proxy: RunningProxy) -> None:
    failure = cloner.failure(f"https://{NAME}:5432/site.git")
    assert failure.code is FailureCode.REPOSITORY_UNREACHABLE
    assert "CLOUDIFY_EGRESS_PROXY" in failure.message
    assert not proxy.asked


def test_lfs_may_not_lead_inside(cloner: Cloner, https: GitServer, proxy: RunningProxy) -> None:
    make_repository(https.root / "big.git", {".gitattributes": TRACKED, "big.bin": pointer()})
    store = LfsStore(https)
    url = f"https://{NAME}/big.git"
    store.href = "https://127.0.0.1./x"
    assert cloner.failure(url).code is FailureCode.URL_FORBIDDEN
    store.href = f"https://{NAME}/storage/%s"
    store.sent = (302, {"Location": "https://10.0.0.1/x"}, b"")
    assert cloner.failure(url).code is FailureCode.URL_FORBIDDEN
    assert set(proxy.asked) == {f"{NAME}:443"}


def test_a_redirect_of_git_is_not_followed(cloner: Cloner, https: GitServer, proxy: RunningProxy) -> None:
    https.location = f"https://{OTHER}"
    failure = cloner.failure(f"https://{NAME}/moved")
    assert failure.code is FailureCode.REPOSITORY_NOT_FOUND
    assert set(proxy.asked) == {f"{NAME}:443"}


def test_a_certificate_is_checked_through_the_tunnel(make_cloner: MakeCloner, proxy: RunningProxy) -> None:
    failure = make_cloner(allow_local=False, egress_proxy=address(proxy)).failure(URL, attempt=3)
    assert (failure.code, "CLOUDIFY_CA_BUNDLE" in failure.message) == (FailureCode.REPOSITORY_UNREACHABLE, True)


def test_failures_of_the_proxy_are_the_platforms(make_cloner: MakeCloner, proxy: RunningProxy) -> None:
    wrong = make_cloner(allow_local=False, egress_proxy=address(proxy, "wr0ng-passw0rd"))
    with pytest.raises(PlatformError, match=r"credentials.*CLOUDIFY_EGRESS_PROXY") as refused:
        wrong.clone(URL, attempt=3)
    # A port that is held and nobody listens at.
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        cloner = make_cloner(
            allow_local=False, egress_proxy=f"http://u:wr0ng-passw0rd@127.0.0.1:{unused.getsockname()[1]}"
        )
        with pytest.raises(PlatformError, match=r"does not answer.*CLOUDIFY_EGRESS_PROXY") as away:
            cloner.clone(URL, attempt=3)
    # Their users are told as well, who are to ask their operator.
    for thrown, log in ((refused, wrong.log), (away, cloner.log)):
        assert f"system: {thrown.value}" in log.lines
    assert "wr0ng" not in f"{refused.value} {away.value} {wrong.log.text} {cloner.log.text}"


def test_what_the_proxy_says_of_a_host_is_reported(cloner: Cloner, proxy: RunningProxy) -> None:
    proxy.refusals = [403]
    failure = cloner.failure(URL)
    assert (failure.code, "refuses git.example.invalid:443 with status 403" in failure.message) == (
        FailureCode.REPOSITORY_UNREACHABLE,
        True,
    )
    assert len(proxy.asked) == 1
    # What may pass is tried again: here at once, in the middle of a clone by the stage's next attempt.
    proxy.refusals = [503]
    assert cloner.files(cloner.clone(URL)) == {"index.html": b"one"}
    absent = cloner.failure(f"https://{OTHER}/site.git")
    assert (absent.code, "it answers 502" in absent.message) == (FailureCode.REPOSITORY_UNREACHABLE, True)
    proxy.refusals = [0, 503]
    with pytest.raises(PlatformError, match=r"CLOUDIFY_EGRESS_PROXY.*it answers 503"):
        cloner.clone(URL, clean=True)
    proxy.refusals = [0, 503]
    assert cloner.failure(URL, clean=True, attempt=3).code is FailureCode.REPOSITORY_UNREACHABLE


def test_cancelling_ends_the_tries(cloner: Cloner, proxy: RunningProxy) -> None:
    context = cloner.context(URL)
    context.cancelled.set()
    proxy.refusals = [503]
    with pytest.raises(Cancelled):
        cloner.stage.run(context)
    assert len(proxy.asked) == 1


def test_a_refusal_while_lfs_is_fetched_is_reported(cloner: Cloner, https: GitServer, proxy: RunningProxy) -> None:
    store = LfsStore(https)
    store.href = f"https://{OTHER}/storage/%s"
    make_repository(https.root / "big.git", {".gitattributes": TRACKED, "big.bin": pointer()})

    def refuse(method: str, path: str, headers: Message, body: bytes) -> Answer | None:
        if path.endswith("/objects/batch"):
            # The next connection is to the place of the content.
            proxy.refusals = [407]
        return store.respond(method, path, headers, body)

    https.respond = refuse
    with pytest.raises(PlatformError, match=r"credentials \(407\)"):
        cloner.clone(f"https://{NAME}/big.git")
    assert proxy.asked[-1] == f"{OTHER}:443"


def test_an_ssh_repository(make_cloner: MakeCloner, database: Database, tmp_path: Path) -> None:
    add_project(database)
    private_key, public_key = make_key()
    make_repository(tmp_path / "site", {"index.html": "one"})
    url = f"ssh://git@{NAME}{tmp_path}/site"
    credentials = RepositoryCredentials("sshKey", f"ssh://{NAME}:22", private_key=private_key)
    with running(tmp_path / "sshd") as ssh:
        ssh.authorized.write_text(public_key + "\n")
        with running_proxy({f"{NAME}:22": ("127.0.0.1", ssh.port)}, "") as proxy:
            cloner = make_cloner(allow_local=False, egress_proxy=f"http://127.0.0.1:{proxy.port}")
            assert cloner.files(cloner.clone(url, credentials=credentials)) == {"index.html": b"one"}
            # The host is known by its name from now on, whatever leads to it.
            assert cloner.host_keys.find_host_key("proj_1", f"{NAME}:22") is not None
            ssh.stop()
            ssh.start()
            failure = cloner.failure(url, credentials=credentials)
            assert "another SSH host key" in failure.message
            proxy.refusals = [0, 403]
            failure = cloner.failure(url, credentials=credentials)
            assert "status 403. It may allow the repository's https:// address" in failure.message
    assert set(proxy.asked) == {f"{NAME}:22"}


def test_the_port_serves_this_clone_and_its_hosts_only(proxy: RunningProxy) -> None:
    with CloneProxy.opened(NetworkSettings(egress_proxy=address(proxy))) as clone_proxy:
        assert clone_proxy.open(parse_repository_url(URL)) is None
        credentials, _, place = clone_proxy.url.removeprefix("http://").partition("@")
        header = f"Proxy-Authorization: Basic {base64.b64encode(credentials.encode()).decode()}\r\n"
        port = int(place.rpartition(":")[2])
        assert ask(port, f"{NAME}:443", header) == "200"
        assert ask(port, f"{NAME}:443", "") == "407"
        assert ask(port, f"{NAME}:443", header.replace("Basic ", "Basic x")) == "407"
        asked = len(proxy.asked)
        for target in (f"{NAME}:22", f"{OTHER}:443", "127.0.0.1:443", "169.254.169.254:80"):
            assert ask(port, target, header) == "403"
        assert len(proxy.asked) == asked
        # As httpx spells it: without brackets.
        assert clone_proxy.open(parse_repository_url("https://[2001:db8::7]/r")) is not None
        assert ask(port, "2001:db8::7:443", header) == "502"
        assert proxy.asked[asked:] == ["[2001:db8::7]:443"] * 2
    with pytest.raises(ConnectionRefusedError):
        ask(port, f"{NAME}:443", header)


def ask(port: int, target: str, header: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(f"CONNECT {target} HTTP/1.1\r\n{header}\r\n".encode())
        return connection.makefile().readline().split(" ")[1]
