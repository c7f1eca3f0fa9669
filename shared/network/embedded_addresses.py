"""IPv4 addresses embedded in IPv6 ones: the destinations behind a translator or tunnel."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

# Prefix → offset of the embedded address from the right, in bits.
_PLACES = tuple(
    (ipaddress.IPv6Network(prefix), shift)
    for prefix, shift in (
        ("::/96", 0),  # IPv4-compatible, unspecified, loopback
        ("::ffff:0:0/96", 0),  # IPv4-mapped
        ("::ffff:0:0:0/96", 0),  # IPv4-translated (RFC 2765)
        ("64:ff9b::/96", 0),  # NAT64 (RFC 6052)
        ("2002::/16", 80),  # 6to4 (RFC 3056)
    )
)
_LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215
_TEREDO = ipaddress.IPv6Network("2001::/32")  # RFC 4380
# ISATAP's interface identifiers (RFC 5214), which occur with any prefix.
_ISATAP = (0x00005EFE, 0x02005EFE)
_NOWHERE = ipaddress.IPv4Network("0.0.0.0/8")
_MASK = 0xFFFFFFFF


def without_scope(address: Address) -> Address:
    """`fe80::1%eth0` → `fe80::1`."""
    return ipaddress.IPv6Address(int(address)) if isinstance(address, ipaddress.IPv6Address) else address


def embedded_addresses(address: Address) -> tuple[ipaddress.IPv4Address, ...]:
    """Returns the embedded addresses that decide for the whole address; empty if there are none.

    Teredo has two: the server and the obfuscated client.
    """
    if not isinstance(address, ipaddress.IPv6Address):
        return ()
    number = int(address)
    for prefix, shift in _PLACES:
        if address in prefix:
            return (ipaddress.IPv4Address(number >> shift & _MASK),)
    if address in _TEREDO:
        return ipaddress.IPv4Address(number >> 64 & _MASK), ipaddress.IPv4Address(~number & _MASK)
    return _local_nat64(number) if address in _LOCAL_NAT64 else ()


def isatap_address(address: Address) -> ipaddress.IPv4Address | None:
    """Returns the address that an ISATAP router of the prefix would deliver to. The prefix has to be checked too."""
    if isinstance(address, ipaddress.IPv6Address) and int(address) >> 32 & _MASK in _ISATAP:
        return ipaddress.IPv4Address(int(address) & _MASK)
    return None


def _local_nat64(number: int) -> tuple[ipaddress.IPv4Address, ...]:
    """Returns the address in each format of a translator inside the prefix (RFC 6052, 2.2: /48, /56, /64 and /96).

    A format that yields 0.0.0.0/8, which is not routable, is not in use, unless all formats do.
    """
    # Bits 64 to 71 are not part of the embedded address.
    joined = (number >> 64) << 56 | number & (1 << 56) - 1
    forms = (joined >> 40, joined >> 32, joined >> 24, number)
    found = tuple(dict.fromkeys(ipaddress.IPv4Address(form & _MASK) for form in forms))
    return tuple(each for each in found if each not in _NOWHERE) or found
