"""Which `Host` headers a listener answers to.

A page that an attacker's name server leads here by rebinding always sends the attacker's name. So listeners answer to
addresses, `localhost`, and the names of `CLOUDIFY_API_HOSTS`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\[\]:]+)(:[0-9]{0,5})?")


class Hosts:
    """`names`: what is answered to besides addresses and `localhost`; see `host_name`."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(names) | {"localhost"}

    def admits(self, host: str) -> bool:
        """`host` is the value of a `Host` header, with or without a port."""
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = found["host"]
        if name.startswith("["):
            return _is_address(name[1:-1], ipaddress.IPv6Address)
        name = name.removesuffix(".")
        return name in self._names or _is_address(name, ipaddress.IPv4Address)


def host_name(text: str) -> str:
    """The name in the spelling that Hosts compares. Raises ValueError for anything else than a host name."""
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise ValueError(text)
    return name


def _is_address(text: str, family: type[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> bool:
    try:
        family(text)
    except ValueError:
        return False
    return True
