"""Which hosts are answered: addresses, localhost, and names that are configured."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.hosts import Hosts, host_name

HOSTS = Hosts(["api.example.com", "internal"])


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.0.0.1:8000", "192.0.2.7:", "[::1]", "[::1]:8000", "[2001:DB8::1]:80", "[::ffff:10.0.0.1]",
        "localhost", "LocalHost:8000", "localhost.", "localhost.:80", "api.example.com", "API.example.com.:443",
        "internal",
    ],
)  # fmt: skip
def test_answered(host: str) -> None:
    assert HOSTS.admits(host)


@pytest.mark.parametrize(
    "host",
    [
        "", " ", ".", ":80", "evil.example.com", "evil.localhost", "localhost.evil.example", "127.0.0.1.evil.example",
        "api.example.com.evil", "x.api.example.com", "api.example.com..", "api.example.com:80:80", "localhost:x",
        "localhost:123456", "2130706433", "0x7f000001", "127.1", "127.0.0.01", "::1", "[::1", "[::1%25eth0]",
        "[localhost]",
        "localhost@evil.example", "evil.example#localhost", "localhost/", "localhost, evil.example", "localhost\x00",
        "l\u00f6calhost", "\uff11\uff12\uff17.0.0.1", "localho\u017ft",
        "\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3",
    ],
)  # fmt: skip
def test_not_answered(host: str) -> None:
    assert not HOSTS.admits(host)


@given(st.text())
def test_anything_gets_a_verdict(host: str) -> None:
    assert isinstance(HOSTS.admits(host), bool)


def test_names_are_compared_in_one_spelling() -> None:
    assert host_name("API.Example.com.") == "api.example.com"
    for text in ("http://x", "x:80", "*.example.com", "a b", "-x", "x" * 64, "[::1]", "é"):
        with pytest.raises(ValueError, match=re.escape(text)):
            host_name(text)
