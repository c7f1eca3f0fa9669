"""The client of a request: the peer of the connection, or the address in a trusted proxy's headers."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence

from shared.network.embedded_addresses import Address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_WITH_PORT = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<ipv4>[0-9.]+))(?::[0-9]{1,5})?")
# RFC 7239, section 4.
_PAIR = r"([\w!#$%&'*+.^`|~-]+)=([\w!#$%&'*+.^`|~-]+|\"(?:[^\"\\]|\\.)*\")"
_ELEMENT = re.compile(rf"\s*{_PAIR}(?:\s*;\s*{_PAIR})*\s*", re.ASCII)
_EACH_PAIR = re.compile(_PAIR, re.ASCII)


class _Malformed(Exception):
    pass


class TrustedProxies:
    """`networks`: CIDRs of the trusted proxies in front of this process. Headers of other peers are ignored."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self.networks: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in networks)

    def client_of(self, peer: tuple[str, int] | None, headers: Sequence[tuple[bytes, bytes]]) -> tuple[str, int] | None:
        """Returns the address and port of the client; the port is 0 if a proxy gave the address.

        Behind a proxy it is the rightmost address of `X-Forwarded-For` or `Forwarded` that is not a proxy's: the client
        itself may have written addresses further left. Proxies set one of the two and may forward the other unchanged.
        So headers that disagree are ignored, as are malformed ones, and the proxy counts as the client.
        """
        if peer is None or not self._is_proxy(_parsed(peer[0])):
            return peer
        try:
            chains = [chain for chain in (_x_forwarded_for(headers), _forwarded(headers)) if chain]
            named = {self._rightmost(chain) for chain in chains}
        except _Malformed:
            return peer
        return (str(named.pop()), 0) if len(named) == 1 else peer

    def _rightmost(self, chain: Sequence[str]) -> Address:
        address: Address | None = None
        for text in reversed(chain):
            address = _with_port(text)
            if not self._is_proxy(address):
                break
        if address is None:
            raise _Malformed
        return address

    def _is_proxy(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self.networks)


def network_of(host: str, *, ipv6_bits: int = 64) -> str:
    """The unit that limits count: an IPv4 address, an IPv6 network of `bits` bits (a client with one address of a /64
    has them all), or any other text unchanged."""
    address = _parsed(host)
    if address is None:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, ipv6_bits), strict=False))
    return str(address)


def _parsed(host: str) -> Address | None:
    """Removes the scope and converts an IPv4-mapped address to IPv4."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _x_forwarded_for(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    value = _joined(headers, b"x-forwarded-for")
    return [] if value is None else [entry.strip(" \t") for entry in value.split(",")]


def _forwarded(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    value = _joined(headers, b"forwarded")
    if value is None:
        return []
    found: list[str] = []
    position = 0
    while True:
        element = _ELEMENT.match(value, position)
        if element is None:
            raise _Malformed
        named = [text for name, text in _EACH_PAIR.findall(element[0]) if name.lower() == "for"]
        found.append(named[0].strip('"') if len(named) == 1 else "")
        position = element.end() + 1
        if element.end() == len(value):
            return found
        if value[element.end()] != ",":
            raise _Malformed


def _joined(headers: Sequence[tuple[bytes, bytes]], wanted: bytes) -> str | None:
    values = [value.decode("latin-1") for name, value in headers if name == wanted]
    return ", ".join(values) if values else None


def _with_port(text: str) -> Address:
    match = _WITH_PORT.fullmatch(text)
    address = _parsed(text if match is None else match["ipv6"] or match["ipv4"])
    if address is None:
        raise _Malformed
    return address
