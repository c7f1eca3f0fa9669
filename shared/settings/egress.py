"""The egress gateway: the proxy that build pods of a cluster share."""

from __future__ import annotations

from collections.abc import Iterator

from shared.settings.declaration import part, setting
from shared.settings.kinds import SECRET, TEXT, integer, url


@part
class EgressSettings:
    """The egress gateway (`cloudify egress`), for the executor `kubernetes`: the only way out of installs in pods."""

    gateway_url: str = setting(
        "EGRESS_GATEWAY",
        url("http"),
        "Where build pods reach the gateway's proxy: `http://host:port`.",
        default="",
        default_text="none, so that installs in pods can't run",
    )
    control_url: str = setting(
        "EGRESS_CONTROL",
        url("http"),
        "Where workers end their runs' access: `http://host:port`, with a name that has every gateway's address.",
        default="",
    )
    token: bytes = setting(
        "EGRESS_TOKEN",
        SECRET,
        "Shared by workers and gateways: credentials of runs follow from it.",
        default=b"",
        is_secret=True,
    )
    listen_host: str = setting(
        "EGRESS_HOST", TEXT, "Address that the gateway's proxy and its control listener use.", default="0.0.0.0"
    )
    listen_port: int = setting("EGRESS_PORT", integer(1, 65535), "Port of the gateway's proxy.", default=3128)
    control_port: int = setting(
        "EGRESS_CONTROL_PORT",
        integer(1, 65535),
        "Port of the gateway's control listener; no build pod may reach it.",
        default=3129,
    )

    def problems(self) -> Iterator[str]:
        if self.gateway_url and not (self.control_url and self.token):
            yield "CLOUDIFY_EGRESS_GATEWAY is set, so CLOUDIFY_EGRESS_CONTROL and CLOUDIFY_EGRESS_TOKEN must be, too."
