"""Hosts and ports an install may and may not reach; tests/unit/shared/test_address_policy.py has the addresses."""

from __future__ import annotations

import ipaddress

import pytest

from shared.network.address_policy import Refused
from workers.egress.policy import EgressPolicy


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
