"""Addresses an install may and may not reach. Literal addresses only: nothing is resolved on a network."""

from __future__ import annotations

import ipaddress

import pytest

from workers.executors.egress_policy import EgressPolicy, Refused, own_addresses

FORBIDDEN = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.127.255.255",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "169.254.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "192.88.99.1",
    "::",
    "::1",
    "::10.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:168.63.129.16",
    "::ffff:0:127.0.0.1",
    "64:ff9b::168.63.129.16",
    "64:ff9b::10.0.0.1",
    "64:ff9b::169.254.169.254",
    "64:ff9b:1::1",
    "2002:a00:1::1",
    "2001::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = [
    "1.1.1.1",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "168.63.129.15",
    "168.63.129.17",
    "126.255.255.255",
    "128.0.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "203.0.113.80",
    "223.255.255.255",
    "2606:4700::1",
    "64:ff9b::101:101",
    "::ffff:1.1.1.1",
    "2a00::1",
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_private_and_reserved_addresses_are_not_public(address: str) -> None:
    assert not EgressPolicy.is_public(ipaddress.ip_address(address))
    with pytest.raises(Refused, match="private or local"):
        EgressPolicy((), ()).resolve(address, 443)


@pytest.mark.parametrize("address", PUBLIC)
def test_neighbours_of_the_reserved_ranges_are_public(address: str) -> None:
    assert EgressPolicy.is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("spelling", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "0", "localhost."])
def test_other_spellings_of_loopback_are_judged_by_what_they_mean(spelling: str) -> None:
    with pytest.raises(Refused):
        EgressPolicy((), ()).resolve(spelling, 443)


def test_own_addresses_of_the_host_are_refused() -> None:
    own = own_addresses()
    assert ipaddress.ip_address("127.0.0.1") in own
    assert not EgressPolicy.is_public(ipaddress.ip_address("203.0.113.9"), {ipaddress.ip_address("203.0.113.9")})


def test_only_web_ports_are_open() -> None:
    policy = EgressPolicy((), ())
    assert policy.resolve("203.0.113.80", 443) == [ipaddress.ip_address("203.0.113.80")]
    for port in (22, 25, 5432, 6379, 8080):
        with pytest.raises(Refused, match=f"port {port}"):
            policy.resolve("203.0.113.80", port)


def test_allowed_networks_open_private_addresses_and_every_port() -> None:
    policy = EgressPolicy((), ("10.1.0.0/16",))
    assert policy.resolve("10.1.2.3", 4873) == [ipaddress.ip_address("10.1.2.3")]
    with pytest.raises(Refused):
        policy.resolve("10.2.0.1", 443)


def test_host_list_matches_whole_names_and_suffixes() -> None:
    policy = EgressPolicy(("203.0.113.1", ".example.org"), ())
    assert policy.resolve("203.0.113.1", 443)
    for host in ("203.0.113.2", "example.org", "evilexample.org", "example.org.evil.net"):
        with pytest.raises(Refused, match="not in the list"):
            policy.resolve(host, 443)


def test_networks_that_are_none_are_reported() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        EgressPolicy((), ("10.0.0.0/99",))
