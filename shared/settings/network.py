"""What installs and clones may reach, and how."""

from __future__ import annotations

from pathlib import Path

from shared.settings.declaration import part, setting
from shared.settings.kinds import BOOLEAN, CERTIFICATES, NAMES, NETWORKS, PROXY, choice, url


@part
class NetworkSettings:
    """The way out of installs and clones, and of builds that have a network."""

    egress_allowed_hosts: tuple[str, ...] = setting(
        "EGRESS_ALLOWED_HOSTS",
        NAMES,
        "Host names, or `.suffix` for all below one, that installs and builds may reach.",
        default=(),
        default_text="every public host",
    )
    egress_allowed_networks: tuple[str, ...] = setting(
        "EGRESS_ALLOWED_NETWORKS",
        NETWORKS,
        "Networks (CIDRs) of the operator's own registries and git servers, which everybody's installs and clones may"
        " reach: also at private addresses, over `http://`, and without the proxy.",
        default=(),
    )
    build_network: str = setting(
        "BUILD_NETWORK",
        choice("none", "filtered"),
        "What builds reach where the project doesn't say: nothing, or what installs reach. `make run` sets `filtered`.",
        default="none",
    )
    build_network_choice: bool = setting(
        "BUILD_NETWORK_CHOICE",
        BOOLEAN,
        "Whether a project's `buildNetwork` decides what its builds reach. `make run` sets `true`.",
        default=False,
    )
    npm_registry: str = setting(
        "NPM_REGISTRY",
        url("http", "https"),
        "Registry that every Node package manager is told, and that its own tools come from. A private one also needs"
        " `CLOUDIFY_EGRESS_ALLOWED_NETWORKS`; installs can read credentials in its URL.",
        default="",
        default_text="each tool's own",
        is_secret=True,
    )
    python_index: str = setting(
        "PYTHON_INDEX",
        url("http", "https"),
        "Index that every Python package manager is told, under the same conditions as the npm registry. Poetry takes"
        " its index from pyproject.toml only.",
        default="",
        default_text="each tool's own",
        is_secret=True,
    )
    ca_bundle: Path | None = setting(
        "CA_BUNDLE",
        CERTIFICATES,
        "PEM file of certificates that clones and commands trust in addition to the host's.",
        default=None,
        default_text="",
    )
    egress_proxy: str = setting(
        "EGRESS_PROXY",
        PROXY,
        "HTTP proxy that installs and [clones](../workers/README.md#cloning) use, except for the allowed networks."
        " Repositories over SSH need its permission for port 22.",
        default="",
        is_secret=True,
    )
