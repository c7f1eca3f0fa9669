"""Which API to talk to and with which token.

Order: flags, then CLOUDIFY_API_URL and CLOUDIFY_TOKEN, then the file that `cloudify login` writes, then the one that
`cloudify up` writes. A token that was stored for one API is never sent to another.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from api.client.errors import ClientError, ExitCode

DEFAULT_API_URL = "http://127.0.0.1:8000"

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+")
_PATH = re.compile(r"[A-Za-z0-9._~/-]*")
# Sent in a header, so visible ASCII.
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """`source` names where the token comes from, for messages."""

    api_url: str
    token: str | None = field(repr=False)
    source: str


class _StoredCredentials(msgspec.Struct, rename="camel"):
    api_url: str
    token: str


class CredentialFiles:
    """Reads the environment and the two files; `current_directory` is where a relative CLOUDIFY_HOME starts."""

    def __init__(self, environment: Mapping[str, str], home_directory: Path, current_directory: Path) -> None:
        self._environment = environment
        configuration = environment.get("XDG_CONFIG_HOME") or str(home_directory / ".config")
        self.login_file = Path(configuration) / "cloudify" / "credentials.json"
        self.platform_file = current_directory / (environment.get("CLOUDIFY_HOME") or ".cloudify") / "credentials.json"

    def find(self, *, api_url: str | None = None, token: str | None = None) -> Credentials:
        """`api_url` and `token` are the flags. Raises ClientError for a file or a URL that can't be used."""
        if token is None and (from_environment := self._environment.get("CLOUDIFY_TOKEN")):
            token, source = from_environment, "CLOUDIFY_TOKEN"
        else:
            source = "--token"
        wanted = api_url or self._environment.get("CLOUDIFY_API_URL") or None
        wanted = None if wanted is None else normalise_api_url(wanted)
        if token is not None and wanted is not None:
            return Credentials(wanted, _clean(token), source)
        for path in (self.login_file, self.platform_file):
            stored = _read(path)
            if stored is None or (wanted is not None and wanted != stored.api_url):
                continue
            if token is not None:
                return Credentials(stored.api_url, _clean(token), source)
            return Credentials(stored.api_url, stored.token, str(path))
        return Credentials(wanted or DEFAULT_API_URL, None if token is None else _clean(token), source)

    def store(self, api_url: str, token: str) -> Path:
        """Writes the login file, readable by its owner only, in one step; returns its path."""
        path = self.login_file
        content = msgspec.json.encode(_StoredCredentials(api_url=api_url, token=token)) + b"\n"
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            temporary.replace(path)
        except OSError as error:
            raise ClientError(
                f"The credentials can't be written to {path}: {error.strerror}.",
                "Make the directory writable, or set CLOUDIFY_TOKEN instead of logging in.",
            ) from error
        return path


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


def _read(path: Path) -> _StoredCredentials | None:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        # The platform's own file belongs to whoever runs it; another user of the machine logs in instead.
        if isinstance(error, PermissionError):
            return None
        raise ClientError(f"The credentials in {path} can't be read: {error.strerror}.") from error
    try:
        stored = msgspec.json.decode(content, type=_StoredCredentials)
    except msgspec.DecodeError as error:
        raise ClientError(
            f"The credentials in {path} aren't valid: {error}.", "Delete the file and run `cloudify login` again."
        ) from error
    return _StoredCredentials(api_url=normalise_api_url(stored.api_url), token=_clean(stored.token))
