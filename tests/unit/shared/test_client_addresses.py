"""Which client a request is attributed to: headers count if a trusted proxy wrote them."""

from __future__ import annotations

import pytest

from shared.network.client_addresses import TrustedProxies, network_of

PROXIES = TrustedProxies(["10.0.0.0/8", "fd00::/8"])
PEER = ("10.0.0.1", 4711)


def header(name: str, *values: str) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for value in values]


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["192.0.2.1"], "192.0.2.1"),
        (["203.0.113.66, 192.0.2.1"], "192.0.2.1"),
        (["203.0.113.66", "192.0.2.1"], "192.0.2.1"),
        (["203.0.113.66, 192.0.2.1, 10.0.0.2"], "192.0.2.1"),
        (["nonsense,,, 192.0.2.1,10.0.0.2,fd00::7"], "192.0.2.1"),
        (["192.0.2.1:4711"], "192.0.2.1"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["::ffff:192.0.2.1, ::ffff:10.0.0.2"], "192.0.2.1"),
        (["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
        # Malformed where it matters: the proxy itself.
        ([""], "10.0.0.1"),
        (["192.0.2.1, "], "10.0.0.1"),
        (["192.0.2.1, unknown, 10.0.0.2"], "10.0.0.1"),
        (["192.0.2.1:"], "10.0.0.1"),
        (["192.0.2.1\xa0"], "10.0.0.1"),
    ],
)
def test_the_rightmost_address_that_is_no_proxys_is_the_client(values: list[str], client: str) -> None:
    assert PROXIES.client_of(PEER, header("x-forwarded-for", *values)) == (client, PEER[1] if client == PEER[0] else 0)


@pytest.mark.parametrize(
    ("values", "client"),
    [
        (["for=192.0.2.1"], "192.0.2.1"),
        (['proto=https;For="192.0.2.1:80" ; by=10.0.0.1, for=10.0.0.2'], "192.0.2.1"),
        (['for="[2001:db8::1]:4711"', "for=10.0.0.2"], "2001:db8::1"),
        (["for=203.0.113.66, for=192.0.2.1"], "192.0.2.1"),
        (["for=_hidden, for=192.0.2.1"], "192.0.2.1"),
        (['by="a, for=203.0.113.66", for=192.0.2.1'], "192.0.2.1"),
        (["for=unknown"], "10.0.0.1"),
        (["proto=https"], "10.0.0.1"),
        (["for=203.0.113.66;for=192.0.2.1"], "10.0.0.1"),
        # A client's open quotation mark, before what the proxy has written.
        (['for="203.0.113.66', "for=192.0.2.1"], "10.0.0.1"),
        (['for=203.0.113.66;by="', 'for="192.0.2.1"'], "10.0.0.1"),
    ],
)
def test_forwarded_is_read_as_the_standard_writes_it(values: list[str], client: str) -> None:
    assert PROXIES.client_of(PEER, header("forwarded", *values)) == (client, PEER[1] if client == PEER[0] else 0)


@pytest.mark.parametrize(("forwarded", "client"), [("for=192.0.2.1", "192.0.2.1"), ("for=203.0.113.66", "10.0.0.1")])
def test_a_header_that_the_proxy_passed_on_names_nobody_else(forwarded: str, client: str) -> None:
    headers = [*header("x-forwarded-for", "192.0.2.1"), *header("forwarded", forwarded)]
    named = PROXIES.client_of(PEER, headers)
    assert named is not None
    assert named[0] == client


@pytest.mark.parametrize("peer", [("192.0.2.9", 1), ("fe80::1%eth0", 1), ("testclient", 1), None])
@pytest.mark.parametrize("name", ["x-forwarded-for", "forwarded"])
def test_headers_of_other_peers_are_ignored(peer: tuple[str, int] | None, name: str) -> None:
    headers = header(name, "203.0.113.66" if name == "x-forwarded-for" else "for=203.0.113.66")
    assert PROXIES.client_of(peer, headers) == peer
    assert TrustedProxies().client_of(PEER, headers) == PEER


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
    ],
)
def test_all_addresses_of_a_network_count_as_one_client(host: str, network: str) -> None:
    assert network_of(host) == network
