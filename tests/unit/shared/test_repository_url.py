from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CloudifyError, ErrorCode
from shared.projects.repository_url import parse_repository_url, place_of, public_form, secrets_of


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://git.example.com/team/site.git", "https://git.example.com/team/site.git"),
        ("https://GIT.example.com:443/team/site", "https://git.example.com/team/site"),
        ("https://user:pa%40ss@git.example.com:8443/s.git", "https://git.example.com:8443/s.git"),
        ("https://token@[2001:db8::1]/s.git", "https://[2001:db8::1]/s.git"),
        ("ssh://git@git.example.com:2222/s.git", "ssh://git@git.example.com:2222/s.git"),
        ("git@git.example.com:team/site.git", "ssh://git@git.example.com/team/site.git"),
        ("git@git.example.com:~me/site.git", "ssh://git@git.example.com/~/~me/site.git"),
        ("file:///srv/with%20space/r", "file:///srv/with%20space/r"),
        ("http://127.0.0.1:3000/r.git", "http://127.0.0.1:3000/r.git"),
    ],
)
def test_accepted(url: str, public: str) -> None:
    assert parse_repository_url(url).public == public
    assert public_form(url) == public


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://user:pw@GIT.example.com:443/team/Site.git", "git.example.com/team/Site"),
        ("http://git.example.com:80/team/Site/", "git.example.com/team/Site"),
        ("ssh://git@git.example.com:22/team/Site.git/", "git.example.com/team/Site"),
        ("git@git.example.com:team/Site.git", "git.example.com/team/Site"),
        ("https://git.example.com:8443/s%20b", "git.example.com:8443/s b"),
        ("https://git.example.com:22/s", "git.example.com:22/s"),
        ("ssh://[2001:db8::1]/s", "[2001:db8::1]/s"),
        ("file:///srv/s%20b.git/", "/srv/s b"),
        ("ftp://me:pw@example.com/s.git", "example.com/s.git"),
    ],
)
def test_a_place_is_the_same_however_the_repository_is_reached(url: str, place: str) -> None:
    assert place_of(url) == place


@pytest.mark.parametrize(
    "url",
    ["", "-uhttps://x/y", "--upload-pack=touch x", "ext::sh -c id", "ext::sh", "git://host/r", "ftp://host/r",
     "javascript:alert(1)", "https://", "https://host", "https://host/", "https://host/a b", "https://host/a\nb",
     "https://host/a\0b", "https://host/%0a", "https://-host/r", "https://ho_st\\@evil/r", "https://host:99999/r",
     "https://host:0/r", "https://host/r?x=1", "https://host/r#x", "https://höst/r", "ssh://-oProxyCommand=x/r",
     "ssh://-oX@host/r", "-oX@host:r", "git@-host:r", "git@host:", "git@host::r", "ssh://git:pw@host/r",
     "file://host/r", "file:///", "/srv/r", "../r", "r", "https://[::1/r", "https://[zz]/r", "x" * 3000],
)  # fmt: skip
def test_refused(url: str) -> None:
    with pytest.raises(CloudifyError) as caught:
        parse_repository_url(url)
    assert caught.value.code is ErrorCode.VALIDATION_ERROR


def test_secrets_are_every_spelling_of_them() -> None:
    assert secrets_of("https://user:pa%40ss@host.example/r") == ("pa@ss", "pa%40ss", "dXNlcjpwYUBzcw==")
    assert secrets_of("https://token@host.example/r")[0] == "token"
    assert secrets_of("git@host.example:r") == ()
    assert secrets_of("nonsense://user:pass@x") == ()
    assert "pass" not in public_form("nonsense://user:pass@x")


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(url: str) -> None:
    try:
        parsed = parse_repository_url(url)
    except CloudifyError:
        return
    assert parse_repository_url(parsed.public).public == parsed.public
