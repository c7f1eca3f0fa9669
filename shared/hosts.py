"""The `Host` headers that a listener accepts.

In a DNS rebinding attack, the browser sends the attacker's name. So listeners accept only addresses, `localhost` and
the names in `CLOUDIFY_API_HOSTS`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")
_HOST = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\[\]:]+)(:[0-9]{0,5})?")


class Hosts:
    """`names` are accepted in addition to addresses and `localhost`; see `host_name`."""

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
    """Normalises a name as Hosts compares it. Raises ValueError if it is not a host name."""
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
