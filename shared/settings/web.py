"""What the outside reaches: the API and the sites."""

from __future__ import annotations

from shared.backends import PUBLISHERS
from shared.settings.declaration import part, setting
from shared.settings.kinds import BOOLEAN, HOST_NAMES, NETWORKS, SECONDS, TEXT, choice, integer

_PORT = integer(1, 65535)
_DEFAULT_PORTS = {"http": 80, "https": 443}


@part
class ApiSettings:
    """Where the API listens, whom it answers and how much of it one client may have."""

    host: str = setting("API_HOST", TEXT, "Address that the API listens on.", default="127.0.0.1")
    port: int = setting("API_PORT", _PORT, "Port that the API listens on.", default=8000)
    hosts: tuple[str, ...] = setting(
        "API_HOSTS",
        HOST_NAMES,
        "Names that the API and the metrics listeners answer to, in addition to addresses and `localhost`; a request"
        " with another `Host` is answered with 421.",
        default=(),
    )
    keep_alive_seconds: float = setting(
        "API_KEEP_ALIVE_SECONDS",
        SECONDS,
        "Time that a connection may wait for its next request. It must be longer than the proxy in front keeps the"
        " connection (nginx: 60 s; Caddy: 2 min, so set its `keepalive` to 60 s).",
        default=75.0,
    )
    connections_per_address: int = setting(
        "API_CONNECTIONS_PER_ADDRESS",
        integer(0, 1_000_000),
        "Connections that one address (a /64 of IPv6) may have open, and a /48 four times as many; `0` for no bound."
        " Loopback and trusted proxies aren't counted.",
        default=256,
    )
    trusted_proxies: tuple[str, ...] = setting(
        "TRUSTED_PROXIES",
        NETWORKS,
        "Networks (CIDRs) of the proxies in front of the API, like `127.0.0.1/32` for one on this machine. The client's"
        " address is then the rightmost in `X-Forwarded-For` or `Forwarded` that is no proxy's. Set it behind any"
        " proxy: otherwise all clients count as one address, and share its 20 wrong passwords a minute.",
        default=(),
    )
    streams_per_user: int = setting(
        "STREAMS_PER_USER",
        integer(1, 100_000),
        "Live streams that a user may have open at once, across all API processes.",
        default=100,
    )
    registration_enabled: bool = setting(
        "REGISTRATION_ENABLED",
        BOOLEAN,
        "Whether anybody may create an account. `cloudify admin create-owner EMAIL` creates an administrator's.",
        default=False,
    )


@part
class SiteSettings:
    """The addresses of sites, the router that serves them, and how long previews live."""

    port: int = setting("SITES_PORT", _PORT, "Port in the addresses of sites.", default=8080)
    domain: str = setting("SITES_DOMAIN", TEXT, "Domain that sites are below: `<name>.<domain>`.", default="localhost")
    scheme: str = setting("SITES_SCHEME", choice(*_DEFAULT_PORTS), "Scheme in the addresses of sites.", default="http")
    publisher: str = setting("PUBLISHER", choice(*PUBLISHERS), "What makes releases servable.", default=PUBLISHERS[0])
    preview_days: int = setting(
        "PREVIEW_DAYS", integer(1, 3650), "Days after which a preview is taken down.", default=30
    )

    def url(self, host: str) -> str:
        """The public address of a site by its host label."""
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}.{self.domain}{port}"
