from __future__ import annotations

from pathlib import Path

import pytest

from api.client.work_tree import Repository, is_same_repository, name_of, repository_of


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
        (None, "https://example.com/b", False),
    ],
)
def test_spelling_and_credentials_make_no_other_repository(one: str | None, other: str, *, same: bool) -> None:
    assert is_same_repository(one, other) is same


def test_a_repository_is_called_after_its_last_part() -> None:
    assert name_of("https://example.com/team/site.git/") == "site"
    assert name_of("file:///") == "site"
