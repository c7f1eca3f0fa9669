"""The one policy for the destinations of tenants' requests: clones, Git LFS, submodules, installs and future ones.

Resolve a name once, connect only to an address that `AddressPolicy.admit` returned, and check every redirect like the
first address.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from shared.network.embedded_addresses import Address, embedded_addresses, isatap_address, without_scope

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# IANA's special-purpose registry (RFC 6890 and its updates). The documentation ranges contain nothing private, so they
# are not listed.
_REFUSED_IPV4 = tuple(
    ipaddress.IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and some clouds' metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # a cloud's host agent, on a public address
        "169.254.0.0/16",  # link-local, and most clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# The only IPv6 range for the public internet. All other addresses are refused, assigned or not.
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
_REFUSED_IPV6 = tuple(
    ipaddress.IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: benchmarks, ORCHID, port control, relays
        "3fff::/20",
    )
)
_LOOPBACK: tuple[Address, ...] = (ipaddress.IPv4Address("127.0.0.1"), ipaddress.IPv6Address("::1"))


class Refused(Exception):
    """The address is not allowed. The message is one line for the user."""


class Unresolvable(Exception):
    """The host doesn't exist or can't be resolved."""


class AddressPolicy:
    """Admits addresses of the public internet and those in `allowed_networks` (CIDRs), except this host's own.

    The operator sets the allowed networks, which may include this host. For an address that embeds IPv4 addresses,
    these are checked. Raises ValueError for an invalid CIDR. Safe from several threads.
    """

    def __init__(
        self, allowed_networks: Sequence[str] = (), own: Callable[[], frozenset[Address]] | None = None
    ) -> None:
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in allowed_networks)
        self._own = own or own_addresses

    @property
    def has_allowed_networks(self) -> bool:
        return bool(self._networks)

    def is_listed(self, address: Address) -> bool:
        """Whether the address, or every address that it embeds, is in the allowed networks."""
        address = without_scope(address)
        if any(address in network for network in self._networks):
            return True
        embedded = embedded_addresses(address)
        return bool(embedded) and all(self.is_listed(each) for each in embedded)

    def is_public(self, address: Address) -> bool:
        """False for private, local and reserved addresses and this host's own, and for addresses that embed one."""
        address, own = without_scope(address), self._own()
        return address not in own and _is_global(address, own)

    def is_admitted(self, address: Address) -> bool:
        return self.is_listed(address) or self.is_public(address)

    def admit(self, host: str, addresses: Iterable[Address], *, is_listed_only: bool = False) -> tuple[Address, ...]:
        """Returns the allowed addresses of the host, in order; never empty.

        `is_listed_only`: allow only the listed networks, for unencrypted protocols. Raises Refused.
        """
        found = tuple(addresses)
        admitted = tuple(each for each in found if (self.is_listed if is_listed_only else self.is_admitted)(each))
        if admitted:
            return admitted
        shown = ", ".join(str(address) for address in found)
        if is_listed_only:
            raise Refused(f"{host} ({shown}) is not in a network that the operator has allowed")
        raise Refused(f"{host} is a private or local address ({shown})")

    def admit_through_proxy(
        self, host: str, addresses: Iterable[Address], *, is_listed_only: bool = False
    ) -> tuple[Address, ...]:
        """As `admit`, for a proxy that gets the name of unlisted hosts and resolves it again.

        So all addresses of the host must be allowed, unless the allowed ones are listed. Raises Refused.
        """
        found = tuple(addresses)
        admitted = self.admit(host, found, is_listed_only=is_listed_only)
        if all(self.is_listed(address) for address in admitted):
            return admitted
        return tuple(each for address in found for each in self.admit(host, (address,)))


def literal_addresses(host: str) -> tuple[Address, ...] | None:
    """Returns the addresses of a literal address or `localhost`; None for a name that must be resolved.

    Raises Refused for spellings that only some programs read as an address (`127.1`, `0x7f000001`, `010.0.0.1`),
    because programs disagree on them. https://url.spec.whatwg.org/#ends-in-a-number-checker
    """
    name = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        last = name.rpartition(".")[2]
        if last == "localhost":
            return _LOOPBACK
        is_hexadecimal = last.startswith("0x") and all(digit in "0123456789abcdef" for digit in last[2:])
        if not last or ":" in host or last.isdecimal() or is_hexadecimal:
            raise Refused(f"{host} is not the name of a public host; write an address in its usual form") from None
        return None
    return (without_scope(address),)


def resolve(host: str, port: int) -> tuple[Address, ...]:
    """Returns all addresses of the host. Blocks as long as the system's resolver. Raises Refused, Unresolvable."""
    literal = literal_addresses(host)
    if literal is not None and len(literal) == 1:
        return literal
    try:
        found = socket.getaddrinfo(host.rstrip("."), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        if literal is not None:
            return literal
        raise Unresolvable(f"{host} can't be resolved") from error
    # A scope (`%eth0`) is not part of the address; link-local addresses are refused anyway.
    return tuple(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


def own_addresses() -> frozenset[Address]:
    """Returns all addresses of this host's interfaces. Even on public ones, services may not be meant for tenants."""
    import psutil

    return frozenset(
        ipaddress.ip_address(entry.address.partition("%")[0])
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    )


def _is_global(address: Address, own: frozenset[Address]) -> bool:
    embedded = embedded_addresses(address)
    if embedded:
        return all(each not in own and _is_global(each, own) for each in embedded)
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _REFUSED_IPV4)
    tunnelled = isatap_address(address)
    if tunnelled is not None and (tunnelled in own or not _is_global(tunnelled, own)):
        return False
    return address in _GLOBAL_IPV6 and not any(address in network for network in _REFUSED_IPV6)
