"""Repository addresses: parsing, the forms that may be shown, and the destinations that are allowed."""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from shared.errors import CloudifyError, ErrorCode, ValidationFailed
from shared.network.address_policy import AddressPolicy, Refused, literal_addresses, resolve
from shared.network.embedded_addresses import Address
from shared.text.written import is_written_text

FIELD = "repositoryUrl"
MAXIMUM_LENGTH = 2048
EXAMPLE = "https://git.example.com/team/site.git"

_DEFAULT_PORTS = {"https": 443, "http": 80, "ssh": 22, "file": 0}
_SCP_LIKE = re.compile(r"(?P<user>[A-Za-z0-9._-]+)@(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<path>[^:].*)")
_HOST = re.compile(r"(?!-)[A-Za-z0-9._-]{1,253}")
_USER = re.compile(r"(?!-)[A-Za-z0-9._-]{1,64}")


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
        """The address without credentials, in one spelling; for logs, argv and cache keys."""
        if self.scheme == "file":
            return f"file://{self.path}"
        # An SSH user is part of the address and not a credential.
        user = f"{self.user}@" if self.scheme == "ssh" and self.user else ""
        return f"{self.scheme}://{user}{self._server}{self.path}"

    @property
    def place(self) -> str:
        """The host and the path in one spelling, equal for all addresses of a repository. Not an address to clone."""
        return self._server + unquote(self.path).rstrip("/").removesuffix(".git").rstrip("/")

    @property
    def origin(self) -> str:
        """scheme://host:port in one spelling, which credentials are bound to."""
        return f"{self.scheme}://{self._written_host}:{self.port}"

    @property
    def _server(self) -> str:
        """The host, with the port if it is not the scheme's default."""
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self._written_host}{port}"

    @property
    def _written_host(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values to mask: the password (or a token given as the user), in each spelling."""
        secret = self.password or self.user
        if not self.is_http or not secret:
            return ()
        pair = f"{self.user or ''}:{self.password or ''}"
        basic = base64.b64encode(pair.encode()).decode()
        return tuple(dict.fromkeys((secret, quote(secret, safe=""), basic)))


@dataclass(frozen=True, slots=True)
class RepositoryPolicy:
    """The allowed locations of one project's repositories. Safe from several threads.

    `allows_files`: whether file:// is accepted, which reads this host's files; for platform administrators only.
    """

    addresses: AddressPolicy
    allows_files: bool = False

    def check(self, url: RepositoryUrl) -> None:
        """Checks the scheme and a literal address without resolving a name.

        Raises CloudifyError URL_FORBIDDEN. For names, the clone checks the resolved addresses (`admit`).
        """
        if url.scheme == "file":
            if not self.allows_files:
                raise _forbidden(
                    "file:// repositories are for platform administrators only: one of them sets the project's "
                    "repositoryUrl. Everybody else uses https:// or ssh://."
                )
            return
        if url.scheme == "http" and not self.addresses.has_allowed_networks:
            raise _forbidden(
                "http:// repositories are refused here; use https:// or ssh://. For a server in your own network, "
                "the operator of this installation adds it to CLOUDIFY_EGRESS_ALLOWED_NETWORKS."
            )
        try:
            literal = literal_addresses(url.host)
        except Refused as error:
            raise _forbidden(f"{error}.") from error
        if literal is not None:
            self._admit(url, literal)

    def admit(self, url: RepositoryUrl, *, has_proxy: bool = False) -> tuple[Address, ...]:
        """Resolves the host and returns the allowed addresses. Connect to these; don't resolve again. Blocks meanwhile.

        `has_proxy`: addresses outside the allowed networks are reached through a proxy, which resolves the name again.

        Raises CloudifyError URL_FORBIDDEN, Unresolvable.
        """
        self.check(url)
        return self._admit(url, resolve(url.host, url.port), has_proxy=has_proxy)

    def _admit(
        self, url: RepositoryUrl, addresses: tuple[Address, ...], *, has_proxy: bool = False
    ) -> tuple[Address, ...]:
        admit = self.addresses.admit_through_proxy if has_proxy else self.addresses.admit
        try:
            return admit(url.host, addresses, is_listed_only=url.scheme == "http")
        except Refused as error:
            advice = "Use https://" if url.scheme == "http" else "Use a repository that the internet reaches"
            raise _forbidden(
                f"{error}. {advice}; for a server in your own network, the operator of this installation adds it to "
                "CLOUDIFY_EGRESS_ALLOWED_NETWORKS."
            ) from error


def _forbidden(message: str) -> CloudifyError:
    return CloudifyError(message, code=ErrorCode.URL_FORBIDDEN)


def parse_repository_url(url: str, *, name: str = FIELD, needs_path: bool = True) -> RepositoryUrl:
    """Parses https://, http://, ssh://, user@host:path and file://. RepositoryPolicy decides which are allowed.

    `name`: the field's name in messages. `needs_path`: False for the address of a server, which may be a host only.

    Raises ValidationFailed. Doesn't resolve names.
    """
    try:
        parsed = _parse(url)
        if needs_path and parsed.path in ("", "/"):
            raise _Malformed(f"has no path to a repository; expected one like {EXAMPLE}")
    except _Malformed as error:
        raise ValidationFailed({name: str(error)}) from None
    return parsed


class _Malformed(Exception):
    """The message describes the problem, as the rest of a sentence."""


def _parse(url: str) -> RepositoryUrl:
    if not url or len(url) > MAXIMUM_LENGTH:
        raise _Malformed(f"must have 1 to {MAXIMUM_LENGTH} characters")
    if url.startswith("-") or not url.isascii() or any(not "!" <= character <= "~" for character in url):
        raise _Malformed(
            "must not begin with a dash nor hold spaces, control or non-ASCII characters; encode them as %XX"
        )
    if "\\" in url or "::" in url.split("/", 1)[0]:
        raise _Malformed(f"is not a repository address; expected one like {EXAMPLE}")
    if "://" not in url:
        return _parse_scp_like(url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _Malformed("has a malformed host or port") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise _Malformed(f"has the scheme {scheme!r}; use https:// or ssh://")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise _Malformed("must not have a query or fragment")
    if scheme == "file":
        return _parse_file(parts.netloc, parts.path)
    return _parse_remote(scheme, parts.hostname or "", port, parts.path, parts.username, parts.password)


def _parse_scp_like(url: str) -> RepositoryUrl:
    match = _SCP_LIKE.fullmatch(url)
    if match is None:
        raise _Malformed(f"is not a repository address; expected one like {EXAMPLE} or git@host:team/site.git")
    path = match["path"]
    # A relative path starts at the user's home, which ssh:// writes as /~/.
    path = path if path.startswith("/") else f"/~/{path}" if path.startswith("~") else f"/{path}"
    return _parse_remote("ssh", match["host"].strip("[]"), None, path, match["user"], None)


def _parse_file(netloc: str, path: str) -> RepositoryUrl:
    if netloc not in ("", "localhost"):
        raise _Malformed("names a host in a file:// address; write file:///path/to/repository")
    # The path remains encoded, because git decodes it.
    if path in ("", "/") or not is_written_text(unquote(path)):
        raise _Malformed("has no usable path; write file:///path/to/repository")
    return RepositoryUrl("file", "", 0, path)


def _parse_remote(
    scheme: str, host: str, port: int | None, path: str, user: str | None, password: str | None
) -> RepositoryUrl:
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise _Malformed("has a malformed host") from None
    elif not _HOST.fullmatch(host):
        raise _Malformed("has a malformed host; write international names in punycode")
    user, password = unquote(user or "") or None, unquote(password or "") or None
    if not is_written_text((user or "") + (password or "") + unquote(path)):
        raise _Malformed("has control characters in it")
    if scheme == "ssh":
        if password is not None:
            raise _Malformed("has a password; SSH repositories need a deploy key")
        if user is not None and not _USER.fullmatch(user):
            raise _Malformed("has a malformed user")
    if port == 0:
        raise _Malformed("has a malformed host or port")
    return RepositoryUrl(scheme, host.lower(), port or _DEFAULT_PORTS[scheme], path, user, password)


def public_form(url: str) -> str:
    """The address without credentials, for people. Of an invalid address, only the part after an @."""
    try:
        return parse_repository_url(url).public
    except CloudifyError:
        return url.rpartition("@")[2] if "@" in url else url


def place_of(url: str) -> str:
    """RepositoryUrl.place, equal for all addresses of a repository; the public form of an invalid address."""
    try:
        return parse_repository_url(url).place
    except CloudifyError:
        return public_form(url)


def secrets_of(url: str) -> tuple[str, ...]:
    """Values that logs must mask; empty if the address has no credentials or is invalid."""
    try:
        return parse_repository_url(url).secrets
    except CloudifyError:
        return ()
