"""Mutual TLS between SeaweedFS's services. The handshake refuses a client without the key of this start."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_CERTIFICATE, _KEY, _CONFIGURATION = "tls.crt", "tls.key", "security.toml"
# Longer than any server runs; each start creates a new certificate.
_VALID = datetime.timedelta(days=3650)
# The machine's clock may be set back.
_BEFORE = datetime.timedelta(days=1)
_GRPC = ("master", "volume", "filer", "s3", "client")
_HTTPS = ("master", "volume", "filer", "client")


def write_security(directory: Path) -> ssl.SSLContext:
    """Writes a new key, its certificate and SeaweedFS's security.toml. Returns the TLS context of a client.

    The certificate is its own authority, so only holders of the key are admitted. `weed scaffold -config=security`
    shows all options. Paths in the file are relative to `directory`, where the server runs.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    encoding = serialization.Encoding.PEM
    _write(directory / _CERTIFICATE, _certificate(key).public_bytes(encoding))
    _write(
        directory / _KEY,
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    pair = f'cert = "{_CERTIFICATE}"\nkey = "{_KEY}"\n'
    authority = f'ca = "{_CERTIFICATE}"\n'
    parts = [f"[grpc]\n{authority}"]
    parts += [f"[grpc.{name}]\n{pair}" for name in _GRPC]
    parts += [f"[https.{name}]\nenabled = true\n{pair}{authority}" for name in _HTTPS]
    _write(directory / _CONFIGURATION, "".join(parts).encode())
    context = ssl.create_default_context(cafile=str(directory / _CERTIFICATE))
    context.load_cert_chain(directory / _CERTIFICATE, directory / _KEY)
    return context


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cloudify-object-store")])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
