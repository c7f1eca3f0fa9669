"""Repository addresses: what is accepted, what of one may be shown, and where one may lead."""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from shared.errors import CloudifyError, ErrorCode, ValidationFailed
from shared.written_text import is_written_text

FIELD = "repositoryUrl"
MAXIMUM_LENGTH = 2048
EXAMPLE = "https://git.example.com/team/site.git"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolver = Callable[[str, int], Sequence[str]]

_DEFAULT_PORTS = {"https": 443, "http": 80, "ssh": 22, "file": 0}
_SCP_LIKE = re.compile(r"(?P<user>[A-Za-z0-9._-]+)@(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<path>[^:].*)")
_HOST = re.compile(r"(?!-)[A-Za-z0-9._-]{1,253}")
_USER = re.compile(r"(?!-)[A-Za-z0-9._-]{1,64}")

# Documentation ranges hold nothing private (RFC 5737, RFC 3849), though `ipaddress` counts them as not global.
_DOCUMENTATION = tuple(
    map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"))
)
# Public by number, private by use: a cloud's wire server, and the ways to write an IPv4 address inside an IPv6 one.
_REFUSED = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.88.99.0/24", "2002::/16", "2001::/32")))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True, slots=True)
class RepositoryUrl:
    """The parts of an accepted address. `user` and `password` are decoded; `host` has no brackets."""

    scheme: str
    host: str
    port: int
    path: str
    user: str | None = None
    password: str | None = None

    @property
    def is_http(self) -> bool:
        return self.scheme in ("http", "https")

    @property
    def public(self) -> str:
        """The address without credentials, in one spelling; fit for logs, argv and cache keys."""
        if self.scheme == "file":
            return f"file://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        # An SSH user is part of the address; credentials are keys.
        user = f"{self.user}@" if self.scheme == "ssh" and self.user else ""
        return f"{self.scheme}://{user}{host}{port}{self.path}"

    @property
    def origin(self) -> str:
        """scheme://host:port, in one spelling: whom credentials are for."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Everything that must be masked: the password (or a token given as the user), in each of its spellings."""
        secret = self.password or self.user
        if not self.is_http or not secret:
            return ()
        pair = f"{self.user or ''}:{self.password or ''}"
        basic = base64.b64encode(pair.encode()).decode()
        return tuple(dict.fromkeys((secret, quote(secret, safe=""), basic)))


def parse_repository_url(url: str, *, allow_local: bool) -> RepositoryUrl:
    """Raises ValidationFailed for what is no repository address, CloudifyError URL_FORBIDDEN for a local one.

    Accepted: https://, ssh:// and user@host:path; with `allow_local` also http:// and file://. Nothing is resolved.
    """
    if not url or len(url) > MAXIMUM_LENGTH:
        raise _invalid(f"must have 1 to {MAXIMUM_LENGTH} characters")
    if url.startswith("-") or not url.isascii() or any(not "!" <= character <= "~" for character in url):
        raise _invalid(
            "must not begin with a dash nor hold spaces, control or non-ASCII characters; encode them as %XX"
        )
    if "\\" in url or "::" in url.split("/", 1)[0]:
        raise _invalid(f"is not a repository address; expected one like {EXAMPLE}")
    if "://" not in url:
        return _parse_scp_like(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _invalid("has a malformed host or port") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise _invalid(f"has the scheme {scheme!r}; use https:// or ssh://")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise _invalid("must not have a query or fragment")
    if scheme in ("file", "http") and not allow_local:
        raise CloudifyError(
            f"{scheme}:// repositories are refused here; use https:// or ssh://.", code=ErrorCode.URL_FORBIDDEN
        )
    if scheme == "file":
        return _parse_file(parts.netloc, parts.path)
    return _parse_remote(scheme, parts.hostname or "", port, parts.path, parts.username, parts.password)


def _invalid(problem: str) -> ValidationFailed:
    return ValidationFailed({FIELD: problem})


def _parse_scp_like(url: str) -> RepositoryUrl:
    match = _SCP_LIKE.fullmatch(url)
    if match is None:
        raise _invalid(f"is not a repository address; expected one like {EXAMPLE} or git@host:team/site.git")
    path = match["path"]
    # A path that is not absolute is relative to the user's home, which ssh:// spells /~/.
    path = path if path.startswith("/") else f"/~/{path}" if path.startswith("~") else f"/{path}"
    return _parse_remote("ssh", match["host"].strip("[]"), None, path, match["user"], None)


def _parse_file(netloc: str, path: str) -> RepositoryUrl:
    if netloc not in ("", "localhost"):
        raise _invalid("names a host in a file:// address; write file:///path/to/repository")
    # The path stays encoded, as git decodes it again.
    if path in ("", "/") or not is_written_text(unquote(path)):
        raise _invalid("has no usable path; write file:///path/to/repository")
    return RepositoryUrl("file", "", 0, path)


def _parse_remote(
    scheme: str, host: str, port: int | None, path: str, user: str | None, password: str | None
) -> RepositoryUrl:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise _invalid("has a malformed host") from None
    elif not _HOST.fullmatch(host):
        raise _invalid("has a malformed host; write international names in punycode")
    if path in ("", "/"):
        raise _invalid(f"has no path to a repository; expected one like {EXAMPLE}")
    user, password = unquote(user or "") or None, unquote(password or "") or None
    if not is_written_text((user or "") + (password or "") + unquote(path)):
        raise _invalid("has control characters in it")
    if scheme == "ssh":
        if password is not None:
            raise _invalid("has a password; SSH repositories need a deploy key")
        if user is not None and not _USER.fullmatch(user):
            raise _invalid("has a malformed user")
    if port == 0:
        raise _invalid("has a malformed host or port")
    return RepositoryUrl(scheme, host.lower(), port or _DEFAULT_PORTS[scheme], path, user, password)


def public_form(url: str) -> str:
    """The address without credentials, for people; of something that doesn't parse only what can't hold any."""
    try:
        return parse_repository_url(url, allow_local=True).public
    except CloudifyError:
        return url.rpartition("@")[2] if "@" in url else url


def secrets_of(url: str) -> tuple[str, ...]:
    """What a log must mask; empty when the address has no credentials or doesn't parse."""
    try:
        return parse_repository_url(url, allow_local=True).secrets
    except CloudifyError:
        return ()


def is_public_address(address: Address) -> bool:
    """Whether the address belongs to the public internet, whatever form it is written in.

    False for loopback, link-local (cloud metadata among it), private, shared (CGNAT), unique local, multicast,
    unspecified and reserved addresses.
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public_address(address.ipv4_mapped)
        if address in _NAT64:
            return is_public_address(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address.is_site_local:
            return False
    if any(address in network for network in _DOCUMENTATION):
        return True
    if any(address in network for network in _REFUSED):
        return False
    return address.is_global and not address.is_multicast


def resolve(host: str, port: int) -> list[str]:
    """Every address of the name, empty when it doesn't resolve. Blocks for as long as the system's resolver does."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    # A scope (`%eth0`) is no part of the address; link-local ones are refused anyway.
    return list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in found))


def check_addresses(repository: RepositoryUrl, *, allow_local: bool, resolver: Resolver = resolve) -> tuple[str, ...]:
    """The addresses that the host resolves to, empty when it doesn't (the clone reports that) or for file://.

    Raises CloudifyError URL_FORBIDDEN when one of them isn't public, unless `allow_local`. Names can be made to
    resolve differently a moment later: whoever connects uses an address that this returned.
    """
    if repository.scheme == "file":
        return ()
    addresses = tuple(resolver(repository.host, repository.port))
    if not allow_local:
        for text in addresses:
            if not is_public_address(ipaddress.ip_address(text)):
                raise CloudifyError(
                    f"{repository.host} leads to the address {text}, which is not public. "
                    "Repositories must be reachable over the internet.",
                    code=ErrorCode.URL_FORBIDDEN,
                )
    return addresses
