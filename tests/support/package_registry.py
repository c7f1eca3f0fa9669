"""A registry of npm packages and of Python packages with one package each, over TLS from a private authority."""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import io
import ipaddress
import json
import ssl
import tarfile
import threading
import zipfile
from collections.abc import Generator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Not 127.0.0.1, which a sandbox reaches without its proxy: that is its own.
HOST = "127.0.0.2"
# Resolves nowhere; for what reaches the registry through a proxy that knows better.
NAME = "packages.invalid"
PACKAGE = "cloudify-greeting"
GREETING = "from the private registry"


@dataclass
class PackageRegistry:
    """`requested` are the paths asked for, in order. With a `token`, npm packages are for those who show it."""

    port: int
    authority: Path
    token: str | None = None
    npm_integrity: str = ""
    requested: list[str] = field(default_factory=list)

    @property
    def npm_url(self) -> str:
        return f"https://{HOST}:{self.port}/npm/"

    @property
    def python_url(self) -> str:
        return f"https://{HOST}:{self.port}/simple/"


@contextlib.contextmanager
def serving_packages(directory: Path) -> Generator[PackageRegistry]:
    """`directory` gets the authority's certificate."""
    authority, chain = _issue(directory)
    registry = PackageRegistry(0, authority)
    files: dict[str, tuple[str, bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry.requested.append(self.path)
            kind, content = files.get(self.path, ("text/plain", b""))
            status = 200 if self.path in files else 404
            shown = self.headers.get("Authorization")
            if registry.token is not None and self.path.startswith("/npm/") and shown != f"Bearer {registry.token}":
                status, content = 401, b""
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing: what was asked for is in `requested`."""

    server = ThreadingHTTPServer((HOST, 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    registry.port = server.server_address[1]
    files |= _npm_package(registry) | _python_package()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _npm_package(registry: PackageRegistry) -> dict[str, tuple[str, bytes]]:
    package = json.dumps({"name": PACKAGE, "version": "1.0.0", "main": "index.js"})
    sources = {"package.json": package, "index.js": f"module.exports = {GREETING!r}"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in sources.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    content = packed.getvalue()
    registry.npm_integrity = f"sha512-{base64.b64encode(hashlib.sha512(content).digest()).decode()}"
    path = f"{PACKAGE}/-/{PACKAGE}-1.0.0.tgz"
    version = {**json.loads(package), "dist": {"tarball": registry.npm_url + path, "integrity": registry.npm_integrity}}
    description = {"name": PACKAGE, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
    return {
        f"/npm/{PACKAGE}": ("application/json", json.dumps(description).encode()),
        f"/npm/{path}": ("application/octet-stream", content),
    }


def _python_package() -> dict[str, tuple[str, bytes]]:
    module = PACKAGE.replace("-", "_")
    information = f"{module}-1.0.0.dist-info"
    sources = {
        f"{module}.py": f"TEXT = {GREETING!r}\n",
        f"{information}/METADATA": f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0.0\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*sources, f"{information}/RECORD"])
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in {**sources, f"{information}/RECORD": record}.items():
            archive.writestr(name, text)
    name = f"{module}-1.0.0-py3-none-any.whl"
    page = f'<!DOCTYPE html><html><body><a href="/files/{name}">{name}</a></body></html>'
    return {
        f"/simple/{PACKAGE}/": ("text/html", page.encode()),
        f"/files/{name}": ("application/octet-stream", packed.getvalue()),
    }


def _issue(directory: Path) -> tuple[Path, Path]:
    """PEM files: the authority's certificate, and the server's certificate with its key."""
    authority_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Tests of registries")])
    now = datetime.datetime.now(datetime.UTC)

    def builder(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )

    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    authority = (
        builder(issuer, authority_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    # npm looks for localhost in the certificate of an address that it reaches through a proxy.
    names = [x509.IPAddress(ipaddress.ip_address(HOST)), x509.DNSName("localhost"), x509.DNSName(NAME)]
    server = (
        builder(subject, server_key)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    key = server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    authority_file, chain_file = directory / "authority.pem", directory / "server.pem"
    authority_file.write_bytes(authority.public_bytes(pem))
    chain_file.write_bytes(server.public_bytes(pem) + key)
    return authority_file, chain_file
