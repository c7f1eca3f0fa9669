from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from api.cli.work_tree import Repository, WorkTree, is_same_repository, name_of, repository_of


@pytest.mark.parametrize(
    ("remote", "expected"),
    [
        ("https://example.com/a/b.git", Repository("https://example.com/a/b.git", is_local=False)),
        ("https://me:pw@example.com/b", Repository("https://example.com/b", is_local=False, had_password=True)),
        ("https://ghp_token@example.com/b", Repository("https://example.com/b", is_local=False, had_password=True)),
        ("git@example.com:a/b.git", Repository("ssh://git@example.com/a/b.git", is_local=False)),
        ("ssh://git@example.com:2222/b", Repository("ssh://git@example.com:2222/b", is_local=False)),
        ("file:///srv/b%20c", Repository("file:///srv/b%20c", is_local=True)),
        ("/srv/git/b c", Repository("file:///srv/git/b%20c", is_local=True)),
        ("../b", Repository("file:///srv/b", is_local=True)),
        ("ftp://example.com/b", Repository("ftp://example.com/b", is_local=False)),
    ],
)
def test_remotes_become_addresses_without_credentials(remote: str, expected: Repository) -> None:
    assert repository_of(remote, Path("/srv/site")) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("file:///srv/a%20b", "file:///srv/a%20b", True),
        ("https://Example.com:443/a", "https://me:pw@example.com/a", True),
        ("https://example.com/a", "https://example.com/b", False),
        ("https://github.com/x/a", "git@github.com:x/a.git", True),
        ("https://example.com/a", "file:///a", False),
        ("file:///srv/a", "file:///srv/b/../a.git/", True),
        ("ftp://example.com/a", "ftp://example.com/a", True),
        (None, "https://example.com/b", False),
    ],
)
def test_the_way_to_a_repository_makes_no_other_one(one: str | None, other: str, *, same: bool) -> None:
    assert is_same_repository(one, other) is same


def test_a_symbolic_link_leads_to_the_same_repository(tmp_path: Path) -> None:
    (tmp_path / "link.git").symlink_to(tmp_path / "a.git")
    assert is_same_repository(f"file://{tmp_path}/link.git", f"file://{tmp_path}/a.git")


def test_a_repository_is_called_after_its_last_part() -> None:
    assert name_of("https://example.com/team/site.git/") == "site"
    assert name_of("file:///") == "site"


@pytest.mark.parametrize("chosen", ["nothing", "GIT_SSH_COMMAND", "GIT_SSH", "core.sshCommand"])
def test_the_ssh_that_the_user_chose_asks_the_remote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    programs = {name: tmp_path / name / "ssh" for name in ("nothing", "chosen")}
    for name, program in programs.items():
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/asked\nexit 1\n')
        program.chmod(0o755)
    subprocess.run(["git", "init", "-q", tmp_path / "site"], check=True)
    subprocess.run(["git", "-C", tmp_path / "site", "remote", "add", "origin", "git@example.com:a/b.git"], check=True)
    for variable in ("GIT_SSH_COMMAND", "GIT_SSH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/nothing:{os.environ['PATH']}")
    if chosen == "core.sshCommand":
        subprocess.run(["git", "-C", tmp_path / "site", "config", chosen, programs["chosen"]], check=True)
    elif chosen != "nothing":
        monkeypatch.setenv(chosen, str(programs["chosen"]))
    assert WorkTree(tmp_path / "site", tmp_path / "site").remote_branches(is_local=False) is None
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("nothing -o BatchMode=yes " if chosen == "nothing" else "chosen ")
