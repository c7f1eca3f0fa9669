"""Bounds the server's connections by address and in total.

An address has a bounded number of them, and so has a /64 of IPv6, which belongs to one customer of a provider; a /48,
which an organisation gets, has four times as many. All together hold fewer than the process may open files: when
all places are taken, the address with the most makes room for one with fewer.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shared.network.client_addresses import Network, network_of

LOOPBACK: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))

# Addresses that an organisation can take at will count together, for so many times the bound of one.
_SITE_PREFIX = 48
_SITES_SHARE = 4
# For everything but clients' connections: the database, the queue, the object store, files.
_OTHER_FILES = 128
# An idle connection takes some 10 KiB.
_MOST_CONNECTIONS = 16_384


def connections_for(open_files: int) -> int:
    """The most connections for a process that may open so many files."""
    return min(_MOST_CONNECTIONS, max(open_files - _OTHER_FILES, open_files // 2))


class Holder(Protocol):
    @property
    def is_idle(self) -> bool: ...

    def give_way(self) -> None:
        """Ends the connection at once."""
        ...


@dataclass(frozen=True, slots=True)
class _Origin:
    """Empty for an address that isn't counted. `site` is the address itself, or the /48 of an IPv6 address."""

    address: str = ""
    site: str = ""


class Places:
    """Belongs to one event loop. A bound of 0 is no bound. Each call takes the same time, however many places are
    taken, except for the choice among the connections of the address that must make room."""

    def __init__(self, *, most: int = 0, most_of_an_address: int = 0, uncounted: Sequence[Network] = LOOPBACK) -> None:
        self._most = most
        self._most_of_an_address = most_of_an_address
        self._uncounted = uncounted
        self._origins: dict[Holder, _Origin] = {}
        self._addresses: Counter[str] = Counter()
        # By site, the oldest first.
        self._sites: dict[str, OrderedDict[Holder, None]] = {}
        # The sites that hold so many.
        self._by_count: dict[int, OrderedDict[str, None]] = {}
        self._largest = 0

    def take(self, holder: Holder, host: str) -> bool:
        """False if the address has all its places, or if none is free and no address holds more than this one would."""
        origin = self._origin(host)
        if self._has_all(origin) or not self._has_room(origin):
            return False
        self._origins[holder] = origin
        if origin.site:
            self._addresses[origin.address] += 1
            holders = self._sites.setdefault(origin.site, OrderedDict())
            holders[holder] = None
            self._count(origin.site, len(holders) - 1, len(holders))
        return True

    def give_back(self, holder: Holder) -> None:
        """Does nothing for a connection without a place."""
        origin = self._origins.pop(holder, None)
        if origin is None or not origin.site:
            return
        self._addresses[origin.address] -= 1
        if not self._addresses[origin.address]:
            del self._addresses[origin.address]
        holders = self._sites[origin.site]
        del holders[holder]
        if not holders:
            del self._sites[origin.site]
        self._count(origin.site, len(holders) + 1, len(holders))

    def is_address_full(self, host: str) -> bool:
        """Whether the address, its /64 or its /48 has all the places that it may have."""
        return self._has_all(self._origin(host))

    def _has_all(self, origin: _Origin) -> bool:
        bound = self._most_of_an_address
        if not bound or not origin.site:
            return False
        is_address_full = self._addresses[origin.address] >= bound
        return is_address_full or self._held(origin.site) >= bound * _SITES_SHARE

    def _has_room(self, origin: _Origin) -> bool:
        if not self._most or len(self._origins) < self._most:
            return True
        if self._largest <= self._held(origin.site) + 1:
            return False
        holders = self._sites[next(iter(self._by_count[self._largest]))]
        # A connection that is being answered only if all are.
        victim = next((holder for holder in holders if holder.is_idle), next(reversed(holders)))
        self.give_back(victim)
        victim.give_way()
        return True

    def _held(self, site: str) -> int:
        return len(self._sites.get(site, ()))

    def _count(self, site: str, before: int, after: int) -> None:
        if before:
            del self._by_count[before][site]
            if not self._by_count[before]:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, OrderedDict())[site] = None
        # A count changes by one: a site that was alone at the top is now next to it.
        if after > self._largest or (before == self._largest and before not in self._by_count):
            self._largest = after

    def _origin(self, host: str) -> _Origin:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return _Origin()
        address = getattr(address, "ipv4_mapped", None) or address
        if any(address in network for network in self._uncounted):
            return _Origin()
        site = address
        if isinstance(address, ipaddress.IPv6Address):
            site = ipaddress.IPv6Network((address, _SITE_PREFIX), strict=False)
        return _Origin(network_of(host), str(site))
