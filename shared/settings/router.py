"""The site router of a machine: a web server and the process that keeps its files right."""

from __future__ import annotations

from shared.settings.declaration import part, setting
from shared.settings.kinds import TEXT, integer, mebibytes, url

_GIBIBYTE = 1 << 30


@part
class RouterSettings:
    """The site router of this machine."""

    web_url: str = setting(
        "ROUTER_URL",
        url("http"),
        "Where the router's web server answers on its machine; `cloudify up` and `cloudify router` set it.",
        default="http://127.0.0.1:8080",
    )
    web_host: str = setting("ROUTER_HOST", TEXT, "Address that the sites are served on.", default="127.0.0.1")
    web_port: int = setting(
        "ROUTER_PORT",
        integer(0, 65535),
        "Port that the sites are served on, where it isn't the one in their addresses, as behind a proxy.",
        default=0,
        default_text="CLOUDIFY_SITES_PORT",
    )
    listen_host: str = setting(
        "ROUTER_INTERNAL_HOST", TEXT, "Address of the router's internal listener.", default="127.0.0.1"
    )
    listen_port: int = setting(
        "ROUTER_INTERNAL_PORT",
        integer(0, 65535),
        "Port of the router's internal listener: readiness, fetches at first requests, its position for other routers."
        " `0`: a free one, which `cloudify up` and `cloudify router` choose.",
        default=0,
    )
    peer_url: str = setting(
        "ROUTER_PEER_URL",
        url("http"),
        "Where other routers reach the internal listener.",
        default="",
        default_text="the internal listener's address",
    )
    name: str = setting(
        "ROUTER_NAME",
        TEXT,
        "Name of this router in lists, unique among routers. It stays the same when the router starts again.",
        default="",
        default_text="the machine's name and a part of the folder's",
    )
    sites_bytes: int = setting(
        "ROUTER_SITES_MB",
        mebibytes(64),
        "Size in MiB of the sites on the router's disk. Beyond it, the least recently used are deleted, and fetched"
        " from the object store at their next request.",
        default=20 * _GIBIBYTE,
    )
