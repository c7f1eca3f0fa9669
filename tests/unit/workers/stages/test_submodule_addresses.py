"""Where the addresses in .gitmodules lead."""

from __future__ import annotations

import pytest

from shared.errors import FailureCode, StageFailure
from shared.network.address_policy import AddressPolicy
from shared.projects.repository_url import RepositoryPolicy, parse_repository_url
from workers.stages.clone.submodules import resolve_submodule

# An administrator's file:// projects may name others; no repository from the network may.
POLICY = RepositoryPolicy(AddressPolicy(), allows_files=True)
PARENT = "https://user:token@git.example.com/team/site.git"


@pytest.mark.parametrize(
    ("parent", "url", "expected"),
    [
        (PARENT, "../theme.git", "https://git.example.com/team/theme.git"),
        (PARENT, "../../other/theme", "https://git.example.com/other/theme"),
        (PARENT, "./nested", "https://git.example.com/team/site.git/nested"),
        (PARENT, "../my theme?#.git", "https://git.example.com/team/my%20theme%3F%23.git"),
        (PARENT, "../th%C3%A8me", "https://git.example.com/team/th%C3%A8me"),
        (PARENT, "../thème", "https://git.example.com/team/th%C3%A8me"),
        (PARENT, "../@evil.example/x", "https://git.example.com/team/@evil.example/x"),
        ("git@git.example.com:team/site.git", "../my theme", "ssh://git@git.example.com/team/my%20theme"),
        (PARENT, "https://elsewhere.example/theme", "https://elsewhere.example/theme"),
    ],
)
def test_an_address_is_the_parents_or_its_own(parent: str, url: str, expected: str) -> None:
    found = resolve_submodule(parse_repository_url(parent), url, POLICY)
    assert found.public == expected
    # Of the parent's host alone.
    assert (found.password == "token") is (parent == PARENT and expected.startswith("https://git.example.com/"))


@pytest.mark.parametrize("url", ["../../..", "../theme\nsystem: all is well", "../theme\x1b[2J", "file:///srv/theme"])
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(StageFailure) as caught:
        resolve_submodule(parse_repository_url(PARENT), url, POLICY)
    assert caught.value.code == FailureCode.URL_FORBIDDEN


LOCAL = "file:///srv/git/site.git"


@pytest.mark.parametrize("url", ["../theme.git", "file:///srv/git/theme.git", "./below", "../a/../theme%20x"])
def test_a_repository_on_this_host_has_submodules_next_to_it(url: str) -> None:
    assert resolve_submodule(parse_repository_url(LOCAL), url, POLICY).path.startswith("/srv/git/")


@pytest.mark.parametrize(
    ("parent", "url"),
    [
        (LOCAL, "../../secret.git"),
        (LOCAL, "../../../root/secret"),
        (LOCAL, "file:///root/secret"),
        (LOCAL, "file:///srv/git/../secret"),
        (LOCAL, "file:///srv/git/%2e%2e/secret"),
        (LOCAL, "../%2e%2e/secret"),
        (LOCAL, "file:///srv/git-other/x"),
        ("file:///site.git", "file:///etc"),
        ("file:///srv/git/%2e%2e/git/site.git", "file:///srv/secret"),
    ],
)
def test_its_content_opens_nothing_else_of_the_host(parent: str, url: str) -> None:
    with pytest.raises(StageFailure) as caught:
        resolve_submodule(parse_repository_url(parent), url, POLICY)
    assert caught.value.code == FailureCode.URL_FORBIDDEN
