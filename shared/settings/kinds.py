"""The kinds of values that settings have. Each parses the text of a variable that is set and not empty."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from shared.hosts import host_name
from shared.settings.declaration import Invalid, Kind

T = TypeVar("T")

_MEBIBYTE = 1024 * 1024
# Of settings without an upper bound of their own.
_LARGEST = 2**40
_IMAGE_DIGEST = re.compile(r"(?:[a-z0-9][\w./:-]*@)?sha256:[0-9a-f]{64}")
_IMAGE_TAG = re.compile(r"[a-z0-9][\w.-]*(?::[0-9]+)?(?:/[a-z0-9][\w.-]*)*:\w[\w.-]{0,127}")
_SECRET_BYTES = 32
_KEY_BYTES = 32
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def _plain(parse: Callable[[str], T], description: str, show: Callable[[T], str] = str) -> Kind[T]:
    """A kind whose `parse` raises ValueError; such values come from the variable alone, not from a file."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError:
            raise Invalid(f"is {text!r}; expected {description}.") from None

    return Kind(checked, description, may_be_file=False, show=show)


def integer(minimum: int, maximum: int = _LARGEST) -> Kind[int]:
    return _whole_number(minimum, maximum, unit=1)


def mebibytes(minimum: int, maximum: int = _LARGEST) -> Kind[int]:
    """Written in MiB; the value is in bytes."""
    return _whole_number(minimum, maximum, unit=_MEBIBYTE)


def _whole_number(minimum: int, maximum: int, *, unit: int) -> Kind[int]:
    def parse(text: str) -> int:
        number = int(text)
        if not minimum <= number <= maximum:
            raise ValueError(text)
        return number * unit

    description = f"a whole number from {minimum} to {maximum}"
    return _plain(parse, description, lambda value: str(value // unit))


def _seconds(text: str) -> float:
    number = float(text)
    if not 0.1 <= number <= 86_400:
        raise ValueError(text)
    return number


def _seconds_or_none(text: str) -> float:
    return 0.0 if text == "0" else _seconds(text)


def _boolean(text: str) -> bool:
    if text not in _BOOLEANS:
        raise ValueError(text)
    return _BOOLEANS[text]


def choice(*names: str) -> Kind[str]:
    def parse(text: str) -> str:
        if text not in names:
            raise Invalid(f"is {text!r}; expected one of {', '.join(names)}.")
        return text

    return Kind(parse, f"one of {', '.join(names)}")


def url(*schemes: str) -> Kind[str]:
    def parse(text: str) -> str:
        if urlsplit(text).scheme not in schemes or not (urlsplit(text).netloc or urlsplit(text).path):
            raise Invalid(f"must be a URL with scheme {' or '.join(schemes)}.")
        return text

    return Kind(parse, f"a URL with scheme {' or '.join(schemes)}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _networks(text: str) -> tuple[str, ...]:
    networks = _names(text)
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise Invalid(f"holds {network!r}; expected networks like 10.0.0.0/8 or fd00::/8.") from None
    return networks


def _host_names(text: str) -> tuple[str, ...]:
    found: list[str] = []
    problems: list[str] = []
    for name in _names(text):
        try:
            found.append(host_name(name))
        except ValueError:
            problems.append(f"holds {name!r}; expected host names without scheme and port, comma-separated.")
    if problems:
        raise Invalid(*problems)
    return tuple(found)


def _certificates(text: str) -> Path:
    try:
        content = Path(text).read_bytes()
    except OSError as error:
        raise Invalid(f"can't be read: {error}.") from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise Invalid(f"is {text!r}, which holds no certificate; name a PEM file.")
    return Path(text).absolute()


def _proxy(text: str) -> str:
    url("http").parse(text)
    try:
        is_usable = bool(urlsplit(text).hostname and urlsplit(text).port)
    except ValueError:
        is_usable = False
    if not is_usable:
        raise Invalid("must be http://host:port, with user:password@ where the proxy asks.")
    return text


def _image(text: str) -> str:
    if not is_digest(text) and not _IMAGE_TAG.fullmatch(text):
        raise Invalid(
            f"is {text!r}; name the image by its digest: name@sha256:… of a registry's, or the"
            " sha256:… that `docker image inspect --format '{{.Id}}'` prints of one that was built here."
        )
    return text


def is_digest(image: str) -> bool:
    """Whether the name of an image tells its content, unlike a tag."""
    return _IMAGE_DIGEST.fullmatch(image) is not None


def _secret(text: str) -> bytes:
    value = text.encode()
    if len(value) < _SECRET_BYTES:
        raise Invalid(f"is shorter than {_SECRET_BYTES} bytes.")
    return value


def _keyring(text: str) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    for entry in filter(None, text.split(",")):
        key_id, separator, encoded = entry.partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            key = b""
        if not separator or not key_id or len(key) != _KEY_BYTES:
            raise Invalid(f"must be <id>:<base64 of {_KEY_BYTES} bytes>, comma-separated.")
        keys[key_id] = key
    return keys


def _folder(text: str) -> Path:
    return Path(text).absolute()


TEXT = Kind(str, "text")
SECONDS = _plain(_seconds, "seconds from 0.1 to 86400", "{:g}".format)
SECONDS_OR_NONE = _plain(_seconds_or_none, "0, or seconds from 0.1 to 86400", "{:g}".format)
BOOLEAN = _plain(_boolean, "true, false, 1 or 0", lambda value: str(value).lower())
NAMES = Kind(_names, "names, comma-separated", show=",".join)
NETWORKS = Kind(_networks, "networks like 10.0.0.0/8 or fd00::/8, comma-separated", show=",".join)
HOST_NAMES = Kind(_host_names, "host names without scheme and port, comma-separated", show=",".join)
CERTIFICATES = Kind(_certificates, "a PEM file")
PROXY = Kind(_proxy, "http://[user:password@]host:port")
IMAGE = Kind(_image, "an image: name@sha256:…, sha256:… of one that was built here, or name:tag")
SECRET = Kind(_secret, f"at least {_SECRET_BYTES} bytes")
KEYRING = Kind(_keyring, f"<id>:<base64 of {_KEY_BYTES} bytes>, comma-separated")
FOLDER = Kind(_folder, "a folder")
