"""Which API to talk to and with which token.

Order: flags, then CLOUDIFY_API_URL, CLOUDIFY_PROFILE and CLOUDIFY_TOKEN, then the API that the work tree is linked to,
then the profile of the last `cloudify login`, then the file that `cloudify up` writes. A token that was stored for one
API is never sent to another.
"""

from __future__ import annotations

import fcntl
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from api.client.errors import ClientError, ExitCode
from api.client.private_file import write_private

DEFAULT_API_URL = "http://127.0.0.1:8000"

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+")
_PATH = re.compile(r"[A-Za-z0-9._~/-]*")
# Sent in a header, so visible ASCII.
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """`source` names where the token comes from, for messages; `profile` is set where that is a stored login."""

    api_url: str
    token: str | None = field(repr=False)
    source: str
    profile: str | None = None

    @property
    def renewal(self) -> str:
        """What to do where the API refuses the token: what this run would use again."""
        login = f"`cloudify login --api-url {self.api_url}`"
        if self.source == "--token":
            return f"Give --token a valid token, or leave it out and run {login}."
        if self.source == "CLOUDIFY_TOKEN":
            return f"Set CLOUDIFY_TOKEN to a valid token, or unset it and run {login}."
        if self.profile is not None:
            login = f"{login[:-1]} --profile {shlex.quote(self.profile)}`"
        return f"Run {login}, or set CLOUDIFY_TOKEN to a valid token."


@dataclass(frozen=True, slots=True)
class Link:
    """The API that a work tree was deployed to, and the profile that was used, if it was one."""

    api_url: str
    profile: str | None = None


class _Profile(msgspec.Struct, rename="camel"):
    name: str
    api_url: str
    token: str


class _StoredLogins(msgspec.Struct, rename="camel", omit_defaults=True):
    """`current` is the profile of the last login; the latest of `profiles` is the last. `devices`: by API, what this
    client is known by when it logs in again."""

    current: str
    profiles: list[_Profile]
    devices: dict[str, str] = {}


class _StoredCredentials(msgspec.Struct, rename="camel"):
    """What `cloudify up` writes, and what `cloudify login` wrote before there were profiles."""

    api_url: str
    token: str


class CredentialFiles:
    """Reads the environment and the two files; `current_directory` is where a relative CLOUDIFY_HOME starts."""

    def __init__(self, environment: Mapping[str, str], home_directory: Path, current_directory: Path) -> None:
        self._environment = environment
        configuration = environment.get("XDG_CONFIG_HOME") or str(home_directory / ".config")
        self.login_file = Path(configuration) / "cloudify" / "credentials.json"
        self.platform_file = current_directory / (environment.get("CLOUDIFY_HOME") or ".cloudify") / "credentials.json"

    @property
    def names_an_api(self) -> bool:
        """Whether the environment does, so that no link of a work tree counts."""
        return bool(self._environment.get("CLOUDIFY_API_URL") or self._environment.get("CLOUDIFY_PROFILE"))

    def find(
        self,
        *,
        api_url: str | None = None,
        token: str | None = None,
        profile: str | None = None,
        link: Link | None = None,
    ) -> Credentials:
        """`api_url`, `token` and `profile` are the flags. Raises ClientError for one, or a file, that can't be used."""
        source = "--token"
        if token is None and (from_environment := self._environment.get("CLOUDIFY_TOKEN")):
            token, source = from_environment, "CLOUDIFY_TOKEN"
        wanted, profile = self._wanted(api_url, profile, link)
        stored = self._stored(wanted, profile, link)
        if token is not None:
            address = wanted or (stored.api_url if stored else DEFAULT_API_URL)
            return Credentials(address, _clean(token), source)
        return stored or Credentials(wanted or DEFAULT_API_URL, None, source)

    def login_target(self, *, api_url: str | None, profile: str | None, link: Link | None = None) -> str:
        """The address of the API to log in to; the link's where neither flags nor environment name one."""
        wanted = api_url or self._environment.get("CLOUDIFY_API_URL") or None
        if wanted is not None:
            return normalise_api_url(wanted)
        known = self.profiles()
        if profile in known:
            return known[profile]
        return self.find(link=None if self.names_an_api else link).api_url

    def profiles(self) -> dict[str, str]:
        """Name → API of all stored logins."""
        return {login.name: login.api_url for login in self._logins().profiles}

    def device(self, api_url: str) -> str | None:
        """What this client is known by at the API since an earlier login."""
        found = self._logins().devices.get(api_url)
        return found if found and _TOKEN.fullmatch(found) else None

    def store(
        self,
        api_url: str,
        token: str,
        profile: str | None = None,
        link: Link | None = None,
        device: str | None = None,
    ) -> str:
        """Keeps the login along with those to other APIs, readable by its owner only, in one step; returns its profile.

        Without a name it takes the place of the login to this API that commands use now; where there is none, the
        profile is called after the API's host.
        """
        path = self.login_file
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Two logins at once keep both.
            with path.with_name(f"{path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                known = self._logins()
                name = profile or self._replaced(known, api_url, link) or api_url.partition("://")[2]
                others = [login for login in known.profiles if login.name != name]
                devices = known.devices if device is None else {**known.devices, api_url: device}
                logins = _StoredLogins(name, [*others, _Profile(name, api_url, token)], devices)
                write_private(path, msgspec.json.format(msgspec.json.encode(logins)).decode() + "\n")
        except OSError as error:
            raise ClientError(
                f"The credentials can't be written to {path}: {error.strerror}.",
                "Make the directory writable, or set CLOUDIFY_TOKEN instead of logging in.",
            ) from error
        return name

    def _replaced(self, known: _StoredLogins, api_url: str, link: Link | None) -> str | None:
        """The profile that a new login to the API renews: a second one would leave the commands with the old token."""
        names = [login.name for login in known.profiles if login.api_url == api_url]
        used = (self._environment.get("CLOUDIFY_PROFILE"), None if link is None else link.profile, known.current)
        only = names[0] if len(names) == 1 else None
        return next((name for name in used if name in names), only)

    def _wanted(self, api_url: str | None, profile: str | None, link: Link | None) -> tuple[str | None, str | None]:
        """The address and the profile that flags, environment or link ask for."""
        if api_url is None and profile is None:
            api_url = self._environment.get("CLOUDIFY_API_URL") or None
            profile = self._environment.get("CLOUDIFY_PROFILE") or None
        wanted = None if api_url is None else normalise_api_url(api_url)
        if profile is not None:
            known = self.profiles()
            if profile not in known:
                names = ", ".join(known) or "none"
                raise ClientError(
                    f"There is no profile {profile!r}; stored are: {names}.",
                    f"Run `cloudify login --profile {shlex.quote(profile)} --api-url URL`.",
                    exit_code=ExitCode.USAGE,
                )
            if wanted is not None and wanted != known[profile]:
                raise ClientError(
                    f"The profile {profile} is for {known[profile]}, not for {wanted}.",
                    "Leave one of the two out.",
                    exit_code=ExitCode.USAGE,
                )
            return known[profile], profile
        if wanted is None and link is not None:
            return link.api_url, link.profile
        return wanted, None

    def _stored(self, wanted: str | None, profile: str | None, link: Link | None) -> Credentials | None:
        logins = self._logins()
        # The asked-for one first, then the last login's, then the newer ones: older tokens may be gone.
        newest_first = reversed(logins.profiles)
        ordered = sorted(newest_first, key=lambda login: (login.name != profile, login.name != logins.current))
        for login in ordered:
            if login.api_url == wanted or (wanted is None and login.name == logins.current):
                return Credentials(login.api_url, login.token, str(self.login_file), login.name)
        found = _read(self.platform_file)
        if found is None:
            return None
        [platform] = found.profiles[:1]
        # The platform that runs here may listen on another port than when the work tree was linked.
        is_linked = link is not None and wanted == link.api_url and is_loopback(link.api_url)
        is_here = is_linked and is_loopback(platform.api_url)
        if wanted is None or wanted == platform.api_url or is_here:
            return Credentials(platform.api_url, platform.token, str(self.platform_file))
        return None

    def _logins(self) -> _StoredLogins:
        return _read(self.login_file) or _StoredLogins("", [])


def normalise_api_url(value: str) -> str:
    """The origin and path prefix, without a trailing slash or /api. Raises ClientError for anything else."""
    parts = urlsplit(value.strip())
    try:
        usable = parts.scheme in ("http", "https") and parts.port != 0
        usable = usable and bool(_HOST.fullmatch(parts.hostname or "")) and bool(_PATH.fullmatch(parts.path))
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ClientError(
            f"{_without_credentials(value)!r} can't be used as the address of the API.",
            f"Give an address such as {DEFAULT_API_URL}, without user name, query or fragment.",
            exit_code=ExitCode.USAGE,
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/api')}"


def is_loopback(api_url: str) -> bool:
    host = urlsplit(api_url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.") or host.endswith(".localhost")


def _without_credentials(value: str) -> str:
    before, at, after = value.rpartition("@")
    return after if at and before else value


def _clean(token: str) -> str:
    token = token.strip()
    if not _TOKEN.fullmatch(token):
        raise ClientError(
            "The token is empty or has characters that no token has.",
            "Copy it again, in one piece, or run `cloudify login`.",
            exit_code=ExitCode.USAGE,
        )
    return token


def _read(path: Path) -> _StoredLogins | None:
    """One login or several; at least one."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        # The platform's own file belongs to the user who runs it; another user of the machine logs in instead.
        if isinstance(error, PermissionError):
            return None
        raise ClientError(f"The credentials in {path} can't be read: {error.strerror}.") from error
    try:
        if b'"profiles"' in content:
            logins = msgspec.json.decode(content, type=_StoredLogins)
        else:
            single = msgspec.json.decode(content, type=_StoredCredentials)
            name = single.api_url.partition("://")[2]
            logins = _StoredLogins(name, [_Profile(name, single.api_url, single.token)])
    except msgspec.DecodeError as error:
        raise ClientError(
            f"The credentials in {path} aren't valid: {error}.", "Delete the file and run `cloudify login` again."
        ) from error
    for login in logins.profiles:
        login.api_url, login.token = normalise_api_url(login.api_url), _clean(login.token)
    return logins if logins.profiles else None
