"""Which hosts and addresses an install may reach."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import psutil

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA special-purpose registries (RFC 6890 and its updates). The documentation ranges hold nothing private, so they
# are not listed.
_FORBIDDEN_NETWORKS: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and some clouds' metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's wire server: public by number, the host's own by use
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/96",  # unspecified, loopback, IPv4-compatible
        "::ffff:0:0:0/96",  # IPv4-translated
        "64:ff9b:1::/48",  # local NAT64
        "100::/64",
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PORTS = (80, 443)


class Refused(Exception):
    """The message is one line for the person whose install was refused."""


class Unresolvable(Exception):
    """No such host: nobody refused it."""


class EgressPolicy:
    """`allowed_hosts`: names, or `.suffix` for all below; empty for every public one.

    `allowed_networks` are CIDRs exempt from the refusal of private addresses and from the limit to ports 80 and 443.
    Raises ValueError for a network that is none. Safe from several threads.
    """

    def __init__(self, allowed_hosts: Sequence[str], allowed_networks: Sequence[str]) -> None:
        self._allowed_hosts = tuple(host.lower().rstrip(".") for host in allowed_hosts)
        self._allowed_networks: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in allowed_networks)

    def resolve(self, host: str, port: int) -> list[Address]:
        """The addresses to connect to, already judged: use them, don't resolve again. Raises Refused, Unresolvable.

        Unresolvable is raised for names that the list of hosts allows alone.
        """
        name = host.lower().rstrip(".")
        if self._allowed_hosts and not any(_matches(name, allowed) for allowed in self._allowed_hosts):
            raise Refused(f"{host} is not in the list of hosts that installs may reach")
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unresolvable(f"{host} can't be resolved") from error
        addresses = list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).split("%")[0]) for entry in found))
        own = own_addresses()
        allowed = [address for address in addresses if self._is_allowed(address, port, own)]
        if not allowed:
            shown = ", ".join(str(address) for address in addresses)
            if any(self.is_public(address, own) for address in addresses):
                raise Refused(f"port {port} of {host} is closed to installs, only 80 and 443 are open")
            raise Refused(f"{host} is a private or local address ({shown})")
        return allowed

    def _is_allowed(self, address: Address, port: int, own: frozenset[Address]) -> bool:
        if any(address in network for network in self._allowed_networks):
            return True
        return port in _PORTS and self.is_public(address, own)

    def is_listed(self, addresses: Iterable[Address]) -> bool:
        """Whether all of them are in the allowed networks: an installation's own, which no upstream proxy reaches."""
        return all(any(address in network for network in self._allowed_networks) for address in addresses)

    @staticmethod
    def is_public(address: Address, own: Iterable[Address] = ()) -> bool:
        """False for what is private, local, reserved, this host's own, or any of these inside IPv6."""
        if isinstance(address, ipaddress.IPv6Address):
            if address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            elif address in _NAT64:
                address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address not in own and not any(address in network for network in _FORBIDDEN_NETWORKS)


def own_addresses() -> frozenset[Address]:
    """Every address of this host's interfaces: behind a public one may listen what is not meant for builds."""
    return frozenset(
        ipaddress.ip_address(entry.address.split("%")[0])
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    )


def _matches(name: str, allowed: str) -> bool:
    return name.endswith(allowed) if allowed.startswith(".") else name == allowed
