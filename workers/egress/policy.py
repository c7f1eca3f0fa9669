"""Which hosts and ports an install may reach; addresses are judged by shared.network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.network.address_policy import AddressPolicy, Refused, resolve
from shared.network.embedded_addresses import Address

_PORTS = (80, 443)


class EgressPolicy:
    """`allowed_hosts`: names, or `.suffix` for all below; empty for every public one.

    `allowed_networks` are CIDRs exempt from the refusal of private addresses and from the limit to ports 80 and 443.
    Raises ValueError for an invalid CIDR. Safe from several threads.
    """

    def __init__(self, allowed_hosts: Sequence[str], allowed_networks: Sequence[str]) -> None:
        self._allowed_hosts = tuple(host.lower().rstrip(".") for host in allowed_hosts)
        self._addresses = AddressPolicy(allowed_networks)

    def resolve(self, host: str, port: int, *, has_upstream: bool = False) -> list[Address]:
        """The addresses to connect to, already judged: use them, don't resolve again. Raises Refused, Unresolvable.

        `has_upstream`: what isn't listed goes through a proxy by its name, so that all its addresses have to be
        admitted. Unresolvable is raised for names that the list of hosts allows alone.
        """
        name = host.lower().rstrip(".")
        if self._allowed_hosts and not any(_matches(name, allowed) for allowed in self._allowed_hosts):
            raise Refused(f"{host} is not in the list of hosts that installs may reach")
        found = resolve(host, port)
        admit = self._addresses.admit_through_proxy if has_upstream else self._addresses.admit
        admitted = admit(host, found)
        open_here = [address for address in admitted if port in _PORTS or self._addresses.is_listed(address)]
        if not open_here:
            raise Refused(f"port {port} of {host} is closed to installs, only 80 and 443 are open")
        return open_here

    def is_listed(self, addresses: Iterable[Address]) -> bool:
        """Whether all of them are in the allowed networks: an installation's own, which no upstream proxy reaches."""
        return all(self._addresses.is_listed(address) for address in addresses)


def _matches(name: str, allowed: str) -> bool:
    return name.endswith(allowed) if allowed.startswith(".") else name == allowed
