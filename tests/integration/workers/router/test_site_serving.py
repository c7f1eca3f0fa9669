"""The rules of the site router, on a real Caddy: which file, which status, which headers.

They hold for sites that the router has on its disk, and for those that it passes on to pods of their own.
"""

from __future__ import annotations

import email.utils
import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.artifacts import Manifest, ManifestFile, ManifestServing
from shared.stack.caddy import CaddyServer
from tests.support.ports import free_ports
from tests.support.site_pod import site_pod
from workers.artifacts.content_types import CONTENT_TYPES, content_type
from workers.router.listener import RouterListener
from workers.router.site_directory import SiteDirectory

IMMUTABLE = "public, max-age=31536000, immutable"
EPOCH = "Thu, 01 Jan 1970 00:00:00 GMT"
REVALIDATE = "public, max-age=0, must-revalidate"


class AgentOfPods:
    """The part of a router's agent that requests meet, for sites of which each has a pod of its own."""

    def __init__(self, sites: Path, pods: Path, stack: ExitStack) -> None:
        self._directory = SiteDirectory(sites)
        self._pods = pods
        self._stack = stack
        self._addresses: dict[str, str] = {}
        self._lock = threading.Lock()

    def current(self, label: str) -> str | None:
        try:
            return self._directory.current(label)
        except ValueError:
            return None

    def pods_address(self, deployment_id: str) -> str:
        with self._lock:
            if deployment_id not in self._addresses:
                address = self._stack.enter_context(site_pod(self._pods, deployment_id))
                self._addresses[deployment_id] = address
            return self._addresses[deployment_id]

    def find_artifact(self, _label: str) -> None:
        return None


@pytest.fixture(scope="module", params=["files", "pods"])
def router(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CaddyServer]:
    folder = tmp_path_factory.mktemp("the router")
    port, internal = free_ports(2)
    server = CaddyServer(
        folder / "caddy", sites_directory=folder / "my sites", port=port, agent=f"127.0.0.1:{internal}"
    )
    with ExitStack() as stack:
        if request.param == "pods":
            (folder / "pods" / "sites" / ".deployments").mkdir(parents=True)
            agent: Any = AgentOfPods(folder / "my sites", folder / "pods", stack)
            nothing: Any = None
            listener = RouterListener(
                "127.0.0.1", internal, agent=agent, fetcher=nothing, artifacts=nothing, domain="localhost"
            )
            listener.start()
            stack.callback(listener.stop)
        stack.callback(server.stop)
        server.start()
        server.wait(120)
        sites = folder / "my sites"
        _publish(sites, "depl_app", APPLICATION | dict.fromkeys(HASHED_ASSETS.values(), "hashed"))
        _publish(sites, "depl_pages", PAGES, is_preview=True)
        _activate(sites, "app", "depl_app")
        _activate(sites, "pages", "depl_pages")
        _publish(sites, "depl_spellings", SPELLINGS)
        _activate(sites, "spellings", "depl_spellings")
        names = [f"file.{name}" for extension in EXTENSIONS for name in (extension, extension.upper())]
        _publish(sites, "depl_types", dict.fromkeys([*names, "file.unknown", "LICENSE", "a.b/c"], "content"))
        _activate(sites, "types", "depl_types")
        yield server


@pytest.fixture
def sites(router: CaddyServer) -> Path:
    return router.directory.parent / "my sites"


APPLICATION = {
    "index.html": "<h1>application</h1>",
    "assets/index-BxYz12Ab.js": "let hashed = 1;" * 200,
    "assets/my-component.js": "let word = 1;",
    "logo-BxYz12Ab.png": "not in a bundler's folder",
    **dict.fromkeys(("js/app.20250101.js", "js/jquery-3.7.1.min.js", "_nuxt/builds/latest.json"), "changes"),
    **dict.fromkeys(("main.js", "chunk-overview.js", "js/decade.facade.js", "css/site.v2.css"), "changes"),
    ".env": "SECRET=1",
    "deep/.git/config": "[core]",
    ".well-known/security.txt": "Contact: someone",
    ".well-known/.nested/file": "nested",
    ".well-known/.git/config": "[core]",
}
# What each framework's build calls its own files.
HASHED_ASSETS = {
    "vite": "assets/index-D1bWx_9k.css",
    "vitepress": "assets/chunks/theme.CkT2-o1p.js",
    "docusaurus": "assets/js/main.1a2b3c4d.js",
    "react-router": "assets/entry.client-BxYz12Ab.js",
    "create-react-app": "static/js/main.8f3b2c1d.js",
    "nextjs": "_next/static/chunks/0d4b1a2c9e8f7061.js",
    "nextjs, of a build": "_next/static/Xa1b2C3d4/_buildManifest.js",
    "astro": "_astro/index.BxYz12Ab.css",
    "sveltekit": "_app/immutable/chunks/D1b8YkZ9.js",
    "nuxt": "_nuxt/DlAUqK2U.js",
    "gatsby": "component---src-pages-index-js-0123456789abcdef0123.js",
    "vue-cli": "js/chunk-vendors.2c7d8c11.js",
    "angular": "chunk-7QX2AB3C.js",
    "angular, before 17": "main.0123456789abcdef.js",
    "hugo": f"css/main.min.{'0123456789abcdef' * 4}.css",
    "mkdocs": "assets/javascripts/bundle.83f73b43.min.js",
}
PAGES = {
    "index.html": "home",
    "about.html": "about",
    "docs/index.html": "documentation",
    "empty/file.txt": "text",
    "404.html": "<h1>nothing like that</h1>",
    "static/js/main.8f3b2c1d.js": "let built = 1;",
    "ünï çode.html": "unicode",
}


# A page with a folder of the same name, a page alone, a folder alone, and names that mean something to some layer.
SPELLINGS = {
    "index.html": "home",
    "about.html": "about",
    "both.html": "both, the page",
    "both/index.html": "both, the folder",
    "page.html": "page",
    "page/picture.png": "a folder without an index",
    "docs/index.html": "docs",
    "docs/guide.html": "guide",
    "docs/deep/er/index.html": "deeper",
    "docs/deep/page.html": "deep page",
    "c#?%/index.html": "a language",
    "in a b/index.html": "blanks",
    "LICENSE": "license",
    "v1.2.html": "version",
    "v1.2/notes.html": "notes",
    "100%.html": "percent",
    "what?.html": "question",
    "a#b.html": "hash",
    "[slug].html": "brackets",
    "*.html": "star",
    "a b/ünï.html": "blank",
    "{path}.html": "braces",
    "404.html": "missing",
}
EXTENSIONS = sorted(CONTENT_TYPES)


def _publish(sites: Path, deployment: str, files: dict[str, str], *, is_preview: bool = False) -> None:
    root = sites / ".deployments" / deployment
    for name, content in files.items():
        path = root / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (root / "meta").mkdir()
    (root / "meta" / "deployment.txt").write_text(deployment)
    if is_preview:
        (root / "meta" / "preview").touch()


def _activate(sites: Path, host: str, deployment: str) -> None:
    (sites / host).mkdir(exist_ok=True)
    fresh = sites / host / ".current-new"
    fresh.symlink_to(Path("..") / ".deployments" / deployment)
    pods = sites.parent / "pods"
    if pods.exists() and (sites / ".deployments" / deployment).exists():
        (sites / ".deployments" / deployment).rename(pods / "sites" / ".deployments" / deployment)
    fresh.replace(sites / host / "current")


def _get(
    router: CaddyServer, path: str, host: str = "app.localhost", method: str = "GET", **headers: str
) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    with httpx.Client(trust_env=False, timeout=120, verify=False) as client:
        return client.request(method, router.url + path, headers={"Host": host, **named})


def _raw(router: CaddyServer, request: bytes) -> bytes:
    host, port = router.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
        return answer


@pytest.mark.parametrize(
    ("host", "path", "body"),
    [
        ("app", "/", "<h1>application</h1>"),
        ("app", "/index.html", "<h1>application</h1>"),
        ("app", "/any/route", "<h1>application</h1>"),
        ("app", "/any/route/", "<h1>application</h1>"),
        ("pages", "/about", "about"),
        ("pages", "/about.html", "about"),
        ("pages", "/docs/", "documentation"),
        ("pages", "/%C3%BCn%C3%AF%20%C3%A7ode", "unicode"),
        ("pages", "/about?x=../../etc", "about"),
    ],
)
def test_pages(router: CaddyServer, host: str, path: str, body: str) -> None:
    answer = _get(router, path, f"{host}.localhost")
    assert (answer.status_code, answer.text) == (200, body)
    assert answer.headers["cache-control"] == REVALIDATE
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    assert ("x-robots-tag" in answer.headers) == (host == "pages")


def test_a_folder_without_its_slash_redirects(router: CaddyServer) -> None:
    answer = _get(router, "/docs", "pages.localhost")
    assert (answer.status_code, answer.headers["location"]) == (308, "/docs/")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/", "home"),
        ("/index", "home"),
        ("/index.html", "home"),
        *((f"/about{end}", "about") for end in ("", "/", ".html", "?q=a/b", "/?q=a/b", "//")),
        ("/both", "both, the page"),
        ("/both/", "both, the folder"),
        ("/page", "page"),
        ("/page/", "page"),
        ("/page/picture.png", "a folder without an index"),
        ("/docs/", "docs"),
        ("/docs/guide", "guide"),
        ("/docs/guide/", "guide"),
        ("/docs/deep/er/", "deeper"),
        ("/docs/deep/page/", "deep page"),
        ("/LICENSE", "license"),
        ("/v1.2", "version"),
        ("/v1.2/", "version"),
        ("/v1.2/notes/", "notes"),
        ("/100%25", "percent"),
        ("/100%25/", "percent"),
        ("/what%3F", "question"),
        ("/a%23b/", "hash"),
        ("/%5Bslug%5D", "brackets"),
        ("/[slug]/", "brackets"),
        ("/*/", "star"),
        ("/a%20b/%C3%BCn%C3%AF/", "blank"),
        ("/%7Bpath%7D/", "braces"),
    ],
)
def test_a_page_is_found_in_both_spellings(router: CaddyServer, path: str, body: str) -> None:
    for method in ("GET", "HEAD"):
        answer = _get(router, path, "spellings.localhost", method)
        assert (answer.status_code, answer.text) == (200, body if method == "GET" else "")
        assert answer.headers["cache-control"] == REVALIDATE


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/docs", "/docs/"),
        ("/docs?q=1&r=%2F", "/docs/?q=1&r=%2F"),
        ("/docs/deep/er", "/docs/deep/er/"),
        ("/c%23%3F%25", "/c%23%3F%25/"),
        ("/c%23%3f%25?q=/", "/c%23%3f%25/?q=/"),
        ("/in%20a%20b", "/in%20a%20b/"),
    ],
)
def test_a_folder_with_an_index_redirects_to_its_slash(router: CaddyServer, path: str, location: str) -> None:
    answer = _get(router, path, "spellings.localhost")
    assert (answer.status_code, answer.headers["location"]) == (308, location)


@pytest.mark.parametrize(
    "path",
    ["/missing/", "/docs/missing", "/LICENSE/", "/docs/deep/", "/docs/deep", "/about.html/", "/slug", "/x/about"],
)
def test_other_spellings_name_nothing(router: CaddyServer, path: str) -> None:
    assert _get(router, path, "spellings.localhost").status_code == 404


@pytest.mark.parametrize(
    "path", ["//evil.example", "//evil.example/docs", "/\\evil.example/docs", "//docs", "/%2F/docs"]
)
def test_no_path_redirects_to_another_host(router: CaddyServer, path: str) -> None:
    head = _raw(router, f"GET {path} HTTP/1.1\r\nHost: spellings.localhost\r\nConnection: close\r\n\r\n".encode())
    locations = [line for line in head.split(b"\r\n") if line.lower().startswith(b"location:")]
    assert locations in ([], [b"Location: /docs/"], [b"Location: /%2F/docs/"])


def test_an_application_has_its_own_pages_in_both_spellings(router: CaddyServer, sites: Path) -> None:
    _publish(sites, "depl_shell", {"index.html": "shell", "about.html": "about"})
    _activate(sites, "shell", "depl_shell")
    for path, body in (("/about/", "about"), ("/about", "about"), ("/route/", "shell"), ("/index/route", "shell")):
        assert _get(router, path, "shell.localhost").text == body


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
def test_the_content_type_is_the_one_of_the_manifest(router: CaddyServer, encoding: str) -> None:
    for name in (*EXTENSIONS, *(extension.upper() for extension in EXTENSIONS), "unknown"):
        answer = _get(router, f"/file.{name}", "types.localhost", Accept_Encoding=encoding)
        assert (answer.status_code, answer.headers["content-type"]) == (200, content_type(f"file.{name}")), name
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/LICENSE", "/a.b/c"):
        assert _get(router, path, "types.localhost").headers["content-type"] == content_type(path)


def test_validators_come_from_content_alone(router: CaddyServer, sites: Path, tmp_path: Path) -> None:
    directory = SiteDirectory(sites)
    etags: list[str] = []
    for number, text in enumerate(("good", "evil", "good")):
        content = text.encode()
        blob = tmp_path / f"blob{number}"
        blob.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        file = ManifestFile(digest=digest, size=len(content), content_type="text/html")
        manifest = Manifest(files={"index.html": file})
        directory.place(f"depl_content{number}", manifest, {digest: blob}, is_preview=False)
        _activate(sites, "content", f"depl_content{number}")
        answer = _get(router, "/", "content.localhost")
        assert (answer.text, "last-modified" in answer.headers) == (text, False)
        etags.append(answer.headers["etag"])
    assert etags[0] == etags[2] != etags[1]
    # After this rollback, a browser that has the bad release asks with its date, and with its ETag.
    now = email.utils.formatdate(usegmt=True)
    for headers in ({"If_Modified_Since": now}, {"If_None_Match": etags[1]}, {"If_Unmodified_Since": EPOCH}):
        answer = _get(router, "/", "content.localhost", **headers)
        assert (answer.status_code, answer.text) == (200, "good")
    assert _get(router, "/", "content.localhost", If_None_Match=etags[0]).status_code == 304
    # A part of another content would be put together with what the client has.
    for condition, status in ((now, 200), (etags[1], 200), (etags[0], 206)):
        part = _get(router, "/", "content.localhost", Range="bytes=0-1", If_Range=condition, Accept_Encoding="identity")
        assert part.status_code == status


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        ("app", "/assets/index-BxYz12Ab.js", IMMUTABLE),
        ("app", "/assets/my-component.js", REVALIDATE),
        ("app", "/logo-BxYz12Ab.png", REVALIDATE),
        ("pages", "/static/js/main.8f3b2c1d.js", IMMUTABLE),
        ("pages", "/empty/file.txt", REVALIDATE),
        *(("app", f"/{path}", IMMUTABLE) for path in HASHED_ASSETS.values()),
        ("app", "/", REVALIDATE),
        ("app", "/js/app.20250101.js", REVALIDATE),
        ("app", "/js/jquery-3.7.1.min.js", REVALIDATE),
        ("app", "/_nuxt/builds/latest.json", REVALIDATE),
        ("app", "/main.js", REVALIDATE),
        ("app", "/chunk-overview.js", REVALIDATE),
        ("app", "/js/decade.facade.js", REVALIDATE),
        ("app", "/css/site.v2.css", REVALIDATE),
    ],
)
def test_only_hashed_assets_are_immutable(router: CaddyServer, host: str, path: str, expected: str) -> None:
    answer = _get(router, path, f"{host}.localhost")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, expected)


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("app", "/assets/index-00000000.js"),
        ("app", "/missing.html"),
        ("app", "/assets/missing-BxYz12Ab.css"),
        ("app", "/.env"),
        ("app", "/%2eenv"),
        ("app", "/deep/.git/config"),
        ("app", "/.well-known/.git/config"),
        ("app", "/.well-known/missing.txt"),
        ("pages", "/static/js/main.00000000.js"),
        ("pages", "/docs/missing.png"),
    ],
)
def test_what_is_missing_or_hidden_is_never_html(router: CaddyServer, host: str, path: str) -> None:
    answer = _get(router, path, f"{host}.localhost")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert "<" not in answer.text


@pytest.mark.parametrize("path", ["/missing", "/missing/deeper", "/empty/"])
def test_a_sites_own_page_for_what_is_missing(router: CaddyServer, path: str) -> None:
    answer = _get(router, path, "pages.localhost")
    assert (answer.status_code, answer.text) == (404, PAGES["404.html"])
    assert answer.headers["cache-control"] == "no-store"
    assert "etag" not in answer.headers


def test_well_known_is_served(router: CaddyServer) -> None:
    assert _get(router, "/.well-known/security.txt").text == "Contact: someone"
    assert _get(router, "/.well-known/.nested/file").text == "nested"


@pytest.mark.parametrize("is_application", [True, False])
@pytest.mark.parametrize("has_page", [True, False])
def test_a_missing_path_shows_the_first_page_of_applications_alone(
    router: CaddyServer, sites: Path, tmp_path: Path, is_application: bool, has_page: bool
) -> None:
    number = f"{is_application:d}{has_page:d}"
    files = {"index.html": "first", "about/index.html": "about", **({"404.html": "own"} if has_page else {})}
    blobs = {hashlib.sha256(text.encode()).hexdigest(): text for text in files.values()}
    for digest, text in blobs.items():
        (tmp_path / digest).write_text(text)
    manifest = Manifest(
        files={
            path: ManifestFile(
                digest=hashlib.sha256(text.encode()).hexdigest(), size=len(text), content_type="text/html"
            )
            for path, text in files.items()
        },
        serving=ManifestServing(is_application=is_application),
    )
    paths = {digest: tmp_path / digest for digest in blobs}
    SiteDirectory(sites).place(f"depl_said{number}", manifest, paths, is_preview=False)
    _activate(sites, f"said{number}", f"depl_said{number}")
    answer = _get(router, "/missing/path?a=b", f"said{number}.localhost")
    if is_application:
        assert (answer.status_code, answer.text) == (200, "first")
    elif has_page:
        assert (answer.status_code, answer.text) == (404, "own")
    else:
        assert answer.status_code == 404
        assert "no page at this address" in answer.text
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
    assert _get(router, "/missing.js", f"said{number}.localhost").status_code == 404
    assert _get(router, "/about/", f"said{number}.localhost").text == "about"


@pytest.mark.parametrize("host", ["app.localhost:8080", "app.localhost.", "app.localhost.:80"])
def test_spellings_of_a_host(router: CaddyServer, host: str) -> None:
    assert _get(router, "/", host).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "nothing.localhost", "localhost", "127.0.0.1", "a.app.localhost", "app.localhost.example", "-app.localhost",
        ".deployments.localhost", "..localhost", "app%2f.localhost", "depl_app.localhost", "app.localhostx",
    ],
)  # fmt: skip
def test_hosts_without_a_site(router: CaddyServer, host: str) -> None:
    answer = _get(router, "/", host)
    assert answer.status_code in (400, 404)
    if answer.status_code == 404:
        assert answer.text == "There is no site here.\n"
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "target",
    [
        b"/../meta/deployment.txt", b"/%2e%2e/meta/deployment.txt", b"/..%2fmeta/deployment.txt",
        b"/a/../../meta/deployment.txt", b"/..\\meta\\deployment.txt", b"//../../../../etc/passwd",
        b"/%00", b"/..%5cmeta/deployment.txt",
    ],
)  # fmt: skip
def test_no_path_leaves_the_site(router: CaddyServer, target: bytes) -> None:
    answer = _raw(router, b"GET " + target + b" HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    # A path without an extension that names nothing is a route of the application.
    assert head.split()[1] in (b"400", b"404") or body == APPLICATION["index.html"].encode()


def test_the_served_deployment_is_named(router: CaddyServer) -> None:
    answer = _get(router, "/.well-known/cloudify/deployment", "pages.localhost")
    assert (answer.text, answer.headers["cache-control"]) == ("depl_pages", "no-store")


def test_conditional_head_and_range_requests(router: CaddyServer) -> None:
    path = "/assets/index-BxYz12Ab.js"
    whole = _get(router, path, Accept_Encoding="identity")
    assert _get(router, path, If_None_Match=whole.headers["etag"], Accept_Encoding="identity").status_code == 304
    packed = _get(router, path, Accept_Encoding="gzip")
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.text == whole.text
    again = _get(router, path, If_None_Match=packed.headers["etag"], Accept_Encoding="gzip")
    assert (again.status_code, again.headers["cache-control"]) == (304, IMMUTABLE)
    head = _get(router, path, method="HEAD", Accept_Encoding="identity")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    part = _get(router, path, Range="bytes=4-9", Accept_Encoding="identity")
    assert (part.status_code, part.text) == (206, "hashed")


def test_other_methods_are_refused(router: CaddyServer) -> None:
    assert _get(router, "/", method="POST").status_code == 405
    assert _get(router, "/any/route", method="DELETE").status_code in (404, 405)


def test_a_switch_is_seen_by_the_next_request(router: CaddyServer, sites: Path) -> None:
    for number in range(2):
        _publish(sites, f"depl_switch{number}", {"index.html": f"number {number}"})
    for turn in range(20):
        number = turn % 2
        _activate(sites, "switch", f"depl_switch{number}")
        assert _get(router, "/", "switch.localhost").text == f"number {number}"
