"""Clones and Git LFS over TLS: an address is contacted, and its certificate checked for the host's name."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.errors import FailureCode
from shared.projects.repository_credentials import RepositoryCredentials
from tests.support.certificates import write_certificate
from tests.support.cloner import Cloner, MakeCloner
from tests.support.git_server import GitServer, serving
from tests.support.lfs_server import CONTENT, TRACKED, LfsStore, pointer
from tests.support.repositories import make_repository

pytestmark = pytest.mark.integration


@pytest.fixture
def https(tmp_path: Path) -> Iterator[GitServer]:
    """A server with a certificate for localhost that only `cloner` trusts."""
    write_certificate(tmp_path / "certificate.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem")
    root = tmp_path / "served"
    root.mkdir()
    with serving(root, tls=context) as server:
        yield server


@pytest.fixture
def cloner(make_cloner: MakeCloner, https: GitServer, tmp_path: Path) -> Cloner:
    return make_cloner(ca_bundle=tmp_path / "certificate.pem")


def test_an_untrusted_certificate_is_refused(make_cloner: MakeCloner, https: GitServer) -> None:
    make_repository(https.root / "site.git", {"index.html": "<h1>x</h1>"})
    failure = make_cloner().failure(f"https://localhost:{https.server_port}/site.git", attempt=3)
    assert failure.code is FailureCode.REPOSITORY_UNREACHABLE
    assert "CLOUDIFY_CA_BUNDLE" in failure.message


def test_a_private_repository_with_lfs(cloner: Cloner, https: GitServer) -> None:
    store = LfsStore(https)
    store.href = f"https://LOCALHOST:{https.server_port}/storage/%s"
    make_repository(https.root / "site.git", {".gitattributes": TRACKED, "big.bin": pointer()})
    https.credentials = "user:s3cret-passw0rd"
    origin = f"https://localhost:{https.server_port}"
    credentials = RepositoryCredentials("token", origin, "user", "s3cret-passw0rd")
    result = cloner.clone(f"{origin}/site.git", credentials=credentials)
    assert cloner.files(result)["big.bin"] == CONTENT
    assert cloner.failure(f"{origin}/site.git", clean=True).code is FailureCode.REPOSITORY_AUTHENTICATION


def test_a_certificate_for_another_name_is_refused(cloner: Cloner, https: GitServer) -> None:
    store = LfsStore(https)
    # The address is right, the name isn't the certificate's.
    store.href = f"https://127.0.0.1:{https.server_port}/storage/%s"
    make_repository(https.root / "site.git", {".gitattributes": TRACKED, "big.bin": pointer()})
    failure = cloner.failure(f"https://localhost:{https.server_port}/site.git", attempt=3)
    assert failure.code is FailureCode.REPOSITORY_UNREACHABLE
    assert [asked[0] for asked in store.asked] == ["POST"]
    failure = cloner.failure(f"https://127.0.0.1:{https.server_port}/site.git", attempt=3)
    assert failure.code is FailureCode.REPOSITORY_UNREACHABLE
