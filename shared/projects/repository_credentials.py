"""Credentials of a project's clones, and the addresses that may receive them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field, replace
from typing import Literal

from shared.errors import ValidationFailed
from shared.projects.repository_url import RepositoryUrl

Kind = Literal["token", "sshKey"]

# Some hosts recognise a token by this user. Others accept any user, or document the one that they need.
DEFAULT_USERNAME = "x-access-token"
MAXIMUM_USERNAME = 255
MAXIMUM_TOKEN = 4096
MAXIMUM_KEY = 32_768
_MINIMUM_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class RepositoryCredentials:
    """`origin`: the `RepositoryUrl.origin` they are for. A token has `user` and `password`; `private_key`: OpenSSH."""

    kind: Kind
    origin: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)

    def is_for(self, url: RepositoryUrl) -> bool:
        return url.origin == self.origin

    def add_to(self, url: RepositoryUrl) -> RepositoryUrl:
        """Adds the token to the address, unless the address has its own credentials or another host."""
        if self.kind != "token" or not self.is_for(url) or url.user or url.password:
            return url
        return replace(url, user=self.user or None, password=self.password or None)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that logs must mask. Each line of a key is masked (see shared.logs.masking.secret_forms)."""
        if self.kind == "sshKey":
            return (self.private_key,)
        return RepositoryUrl("https", "host", 443, "/", self.user or None, self.password or None).secrets


@dataclass(frozen=True, slots=True)
class DeployKey:
    """`private_key` without a passphrase, in OpenSSH's format; `public_key` is the line to register at the host."""

    private_key: str = field(repr=False)
    public_key: str
    fingerprint: str


def parse_deploy_key(text: str) -> DeployKey:
    """Parses a private key in OpenSSH or PEM format. Raises ValidationFailed."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    data = text.replace("\r\n", "\n").strip().encode(errors="replace") + b"\n"
    if len(data) > MAXIMUM_KEY:
        raise _refused(f"must be at most {MAXIMUM_KEY >> 10} KiB")
    if data.startswith((b"ssh-", b"ecdsa-", b"---- BEGIN SSH2 PUBLIC", b"-----BEGIN PUBLIC")):
        raise _refused("is the public half; give the private one (the file without .pub)")
    is_openssh = data.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    if not is_openssh and not data.startswith(b"-----BEGIN "):
        raise _refused("is not a private key; create one with `ssh-keygen -t ed25519 -N '' -f deploy_key`")
    load = serialization.load_ssh_private_key if is_openssh else serialization.load_pem_private_key
    try:
        key = load(data, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as error:
        if isinstance(error, TypeError) or "encrypted" in str(error).lower() or "password" in str(error).lower():
            raise _refused(
                "is protected by a passphrase, which nobody can type here; create a separate key without one"
            ) from None
        raise _refused("can't be read: it is damaged, incomplete or of an unknown format") from None
    if not isinstance(key, (ed25519.Ed25519PrivateKey, ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise _refused("must be an Ed25519, ECDSA or RSA key")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _MINIMUM_RSA_BITS:
        raise _refused(f"is an RSA key of {key.key_size} bits; SSH needs {_MINIMUM_RSA_BITS} or more")
    try:
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    except (ValueError, UnsupportedAlgorithm):
        raise _refused("is of a type that SSH doesn't support; create one with `ssh-keygen -t ed25519`") from None
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    fingerprint = "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
    return DeployKey(private.decode(), public.decode(), fingerprint)


def _refused(problem: str) -> ValidationFailed:
    return ValidationFailed({"privateKey": problem})
