"""When the certificates expire that the platform depends on: those of its stores, and of its own authorities."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import structlog
from prometheus_client.core import Metric

from shared.settings import Settings
from workers.exporter.gauges import gauge

_log = structlog.get_logger(__name__)

_TIMEOUT_SECONDS = 1.0


def certificates(settings: Settings) -> Metric:
    """A series for each server that is reached by TLS and for CLOUDIFY_CA_BUNDLE; none for what can't be asked."""
    readers: dict[str, Callable[[], float]] = {
        name: partial(expiry_of, host, port) for name, (host, port) in servers_with_tls(settings).items()
    }
    if settings.network.ca_bundle is not None:
        readers["ca_bundle"] = partial(expiry_of_bundle, settings.network.ca_bundle)
    ends: dict[str, float] = {}
    for name, read in readers.items():
        try:
            ends[name] = read()
        except (OSError, ValueError) as error:
            _log.warning("exporter.certificate_unknown", certificate=name, error=str(error))
    return gauge("certificate_expiry_timestamp_seconds", ends)


def servers_with_tls(settings: Settings) -> Mapping[str, tuple[str, int]]:
    addresses = {
        "object_store": (settings.object_store.endpoint, "https", 443),
        "redis": (settings.queue.redis_url, "rediss", 6379),
    }
    found: dict[str, tuple[str, int]] = {}
    for name, (address, scheme, port) in addresses.items():
        parts = urlsplit(address)
        if parts.scheme == scheme and parts.hostname:
            found[name] = (parts.hostname, parts.port or port)
    return found


def expiry_of(host: str, port: int) -> float:
    """Unix time. Raises OSError if the server doesn't answer or its certificate isn't trusted."""
    context = ssl.create_default_context()
    with socket.create_connection((host, port), timeout=_TIMEOUT_SECONDS) as connection:
        with context.wrap_socket(connection, server_hostname=host) as secured:
            certificate = secured.getpeercert()
    if not certificate:
        raise ValueError("the server shows no certificate")
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def expiry_of_bundle(path: Path) -> float:
    """The first end of a certificate in the PEM file, as Unix time. Raises OSError, ValueError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    return min(float(ssl.cert_time_to_seconds(str(entry["notAfter"]))) for entry in context.get_ca_certs())
