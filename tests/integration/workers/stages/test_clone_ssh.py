"""Clones over SSH from a real sshd: deploy keys, and hosts that are known by their key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.db.database import Database
from shared.errors import FailureCode
from shared.projects.repository_credentials import RepositoryCredentials
from tests.support.cloner import Cloner
from tests.support.git_server import GitServer
from tests.support.lfs_server import CONTENT, TRACKED, LfsStore, pointer
from tests.support.repositories import commit, git, make_repository
from tests.support.ssh_server import SshServer, make_key, running
from tests.support.stage_context import PROJECT, add_project

pytestmark = pytest.mark.integration

PRIVATE, PUBLIC = make_key()


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[SshServer]:
    with running(tmp_path / "sshd") as server:
        server.authorized.write_text(PUBLIC + "\n")
        yield server


def deploy_key(server: SshServer, private_key: str = PRIVATE) -> RepositoryCredentials:
    return RepositoryCredentials("sshKey", server.origin, private_key=private_key)


def test_a_deploy_key_reads_a_repository_and_its_submodules(
    cloner: Cloner, ssh: SshServer, database: Database, tmp_path: Path
) -> None:
    add_project(database)
    make_repository(tmp_path / "theme", {"theme.css": "one"})
    make_repository(tmp_path / "site", {"index.html": "one"})
    sha = git(tmp_path / "theme", "rev-parse", "HEAD")
    for name, url in (("relative", "../theme"), ("absolute", ssh.url(tmp_path / "theme"))):
        with (tmp_path / "site" / ".gitmodules").open("a") as file:
            file.write(f'[submodule "{name}"]\n\tpath = {name}\n\turl = {url}\n')
        git(tmp_path / "site", "update-index", "--add", "--cacheinfo", f"160000,{sha},{name}")
    git(tmp_path / "site", "add", ".gitmodules")
    git(tmp_path / "site", "commit", "--quiet", "-m", "Add submodules")
    context = cloner.context(ssh.url(tmp_path / "site"), credentials=deploy_key(ssh))
    result = cloner.stage.run(context)
    files = cloner.files(result)
    assert (files["index.html"], files["relative/theme.css"], files["absolute/theme.css"]) == (b"one", b"one", b"one")
    # Nothing of the key is left: not in the stage's directory, the snapshot, or the log.
    lines = [line for line in PRIVATE.splitlines() if not line.startswith("-----")]
    kept = [path.read_bytes() for path in context.directory.rglob("*") if path.is_file()]
    for text in [*kept, *files.values(), cloner.log.text.encode()]:
        assert not any(line.encode() in text for line in lines)
    # The deployment after it asks the same host, whose key is known by now.
    commit(tmp_path / "site", {"index.html": "two"})
    assert not cloner.clone(ssh.url(tmp_path / "site"), credentials=deploy_key(ssh)).is_cache_hit


def test_a_host_with_another_key_gets_nothing(
    cloner: Cloner, ssh: SshServer, database: Database, tmp_path: Path
) -> None:
    add_project(database)
    make_repository(tmp_path / "site", {"index.html": "one"})
    url = ssh.url(tmp_path / "site")
    cloner.clone(url, credentials=deploy_key(ssh))
    ssh.stop()
    ssh.start()
    failure = cloner.failure(url, credentials=deploy_key(ssh))
    assert failure.code is FailureCode.REPOSITORY_AUTHENTICATION
    assert "another SSH host key" in failure.message
    assert "Accepted" not in ssh.output.read_text()
    # Setting credentials forgets the key (see the tests of the API).
    with database.transaction() as connection:
        cloner.host_keys.forget_host_keys(connection, PROJECT)
    assert cloner.clone(url, credentials=deploy_key(ssh), clean=True).output.source


def test_a_known_host_is_not_believed_by_a_key_of_another_type(
    cloner: Cloner, ssh: SshServer, database: Database, tmp_path: Path
) -> None:
    add_project(database)
    make_repository(tmp_path / "site", {"index.html": "one"})
    # ssh's own accept-new would take it.
    cloner.host_keys.pin_host_key(PROJECT, f"127.0.0.1:{ssh.port}", "ecdsa-sha2-nistp256 AAAA")
    failure = cloner.failure(ssh.url(tmp_path / "site"), credentials=deploy_key(ssh))
    assert "another SSH host key" in failure.message


def test_keys_that_are_refused_or_missing(
    cloner: Cloner, ssh: SshServer, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_project(database)
    make_repository(tmp_path / "site", {"index.html": "one"})
    url = ssh.url(tmp_path / "site")
    wrong = cloner.failure(url, credentials=deploy_key(ssh, make_key()[0]))
    assert wrong.code is FailureCode.REPOSITORY_AUTHENTICATION
    assert "cloudify credentials set --key" in wrong.message
    # A key of the worker's own account, in its agent even, is nobody's deploy key.
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
    missing = cloner.failure(url)
    assert missing.code is FailureCode.REPOSITORY_AUTHENTICATION
    assert "needs a deploy key" in missing.message
    other = RepositoryCredentials("sshKey", "ssh://git.example.com:22", private_key=PRIVATE)
    assert "ssh://git.example.com:22 alone" in cloner.failure(url, credentials=other).message
    assert "Accepted" not in ssh.output.read_text()


def test_a_path_is_not_run_as_a_command(cloner: Cloner, ssh: SshServer, database: Database, tmp_path: Path) -> None:
    add_project(database)
    failure = cloner.failure(
        f"ssh://git@127.0.0.1:{ssh.port}/$(touch%20{tmp_path}/marker)';touch%20{tmp_path}/marker;'",
        credentials=deploy_key(ssh),
    )
    assert failure.code is FailureCode.REPOSITORY_NOT_FOUND
    assert not (tmp_path / "marker").exists()


def test_the_host_says_over_ssh_where_lfs_is(
    cloner: Cloner, ssh: SshServer, http: GitServer, database: Database, tmp_path: Path
) -> None:
    add_project(database)
    store = LfsStore(http)
    make_repository(tmp_path / "site", {".gitattributes": TRACKED, "big.bin": pointer()})
    url = ssh.url(tmp_path / "site")
    failure = cloner.failure(url, credentials=deploy_key(ssh))
    assert (failure.code, "git-lfs-authenticate" in failure.message) == (FailureCode.REPOSITORY_LFS_MISSING, True)
    answer = {"href": http.url("x.git/info/lfs"), "header": {"Authorization": "RemoteAuth s3cret"}}
    program = ssh.root / "bin" / "git-lfs-authenticate"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {ssh.root}/asked\ncat <<'END'\n{json.dumps(answer)}\nEND\n")
    program.chmod(0o755)
    assert cloner.files(cloner.clone(url, credentials=deploy_key(ssh)))["big.bin"] == CONTENT
    assert (ssh.root / "asked").read_text().splitlines() == [str(tmp_path / "site"), "download"]
    assert [asked[2] for asked in store.asked] == ["RemoteAuth s3cret", "RemoteAuth s3cret"]
