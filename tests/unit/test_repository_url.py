from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CloudifyError, ErrorCode
from shared.repository_url import (
    Resolver,
    check_addresses,
    is_public_address,
    literal_addresses,
    parse_repository_url,
    public_form,
    resolve,
    secrets_of,
)


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
    assert parse_repository_url(url, allow_local=True).public == public
    assert public_form(url) == public


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
        parse_repository_url(url, allow_local=True)
    assert caught.value.code is ErrorCode.VALIDATION_ERROR


@pytest.mark.parametrize("url", ["file:///srv/r", "http://git.example.com/r"])
def test_local_schemes_are_forbidden_unless_allowed(url: str) -> None:
    with pytest.raises(CloudifyError) as caught:
        parse_repository_url(url, allow_local=False)
    assert caught.value.code is ErrorCode.URL_FORBIDDEN


def test_secrets_are_every_spelling_of_them() -> None:
    assert secrets_of("https://user:pa%40ss@host.example/r") == ("pa@ss", "pa%40ss", "dXNlcjpwYUBzcw==")
    assert secrets_of("https://token@host.example/r")[0] == "token"
    assert secrets_of("git@host.example:r") == ()
    assert secrets_of("nonsense://user:pass@x") == ()
    assert "pass" not in public_form("nonsense://user:pass@x")


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(url: str) -> None:
    try:
        parsed = parse_repository_url(url, allow_local=True)
    except CloudifyError:
        return
    assert parse_repository_url(parsed.public, allow_local=True).public == parsed.public


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
     "100.100.100.200", "168.63.129.16", "224.0.0.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "::", "::1",
     "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1",
     "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public_address(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "203.0.113.7", "2606:4700::1", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_addresses_that_are(address: str) -> None:
    assert is_public_address(ipaddress.ip_address(address))


def test_one_private_address_among_several_is_enough_to_refuse() -> None:
    url = parse_repository_url("https://git.example.com/r", allow_local=False)
    with pytest.raises(CloudifyError) as caught:
        check_addresses(url, allow_local=False, resolver=lambda _host, _port: ["1.1.1.1", "10.0.0.1"])
    assert caught.value.code is ErrorCode.URL_FORBIDDEN
    assert check_addresses(url, allow_local=True, resolver=lambda _host, _port: ["10.0.0.1"]) == ("10.0.0.1",)
    assert check_addresses(url, allow_local=False, resolver=lambda _host, _port: []) == ()


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f000001", "0", "[::ffff:127.0.0.1]", "[::]"])
@pytest.mark.parametrize("resolver", [resolve, literal_addresses])
def test_odd_spellings_of_loopback_are_seen_through(host: str, resolver: Resolver) -> None:
    url = parse_repository_url(f"https://{host}/r", allow_local=False)
    with pytest.raises(CloudifyError) as caught:
        check_addresses(url, allow_local=False, resolver=resolver)
    assert caught.value.code is ErrorCode.URL_FORBIDDEN


def test_literal_addresses_of_names_are_none_but_for_localhost() -> None:
    for name in ("git.example.com", "127.0.0.1.example.com", "localhost.example.com", "fe80", "a" * 253):
        assert literal_addresses(name, 443) == []
    assert literal_addresses("1.1.1.1.", 443) == ["1.1.1.1"]
    for name in ("localhost", "LOCALHOST.", "x.localhost"):
        assert literal_addresses(name, 443) == ["127.0.0.1"]
