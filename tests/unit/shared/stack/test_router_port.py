"""A router behind a proxy serves on another port than the one in the sites' addresses."""

from __future__ import annotations

from pathlib import Path

from shared.stack.home import Home
from shared.stack.platform import ONE_ROUTER
from tests.support.environment import ENVIRONMENT

_BEHIND_A_PROXY = ENVIRONMENT | {
    "CLOUDIFY_EXECUTOR": "bubblewrap",
    "CLOUDIFY_SITES_SCHEME": "https",
    "CLOUDIFY_SITES_PORT": "443",
    "CLOUDIFY_SITES_DOMAIN": "example.com",
    "CLOUDIFY_ROUTER_HOST": "0.0.0.0",
    "CLOUDIFY_ROUTER_PORT": "8080",
    "CLOUDIFY_ROUTER_INTERNAL_PORT": "9465",
}


def test_the_router_s_port_is_the_web_server_s(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.run_directory.mkdir()
    platform = ONE_ROUTER.assemble(home, _BEHIND_A_PROXY)
    [server] = platform.servers
    assert getattr(server, "url", None) == "http://0.0.0.0:8080"
    assert platform.settings.router.web_url == "http://127.0.0.1:8080"
    assert platform.settings.sites.url("name") == "https://name.example.com"
    ports = {name: port for name, port, _host in ONE_ROUTER.public_ports(platform.settings)}
    assert ports == {"CLOUDIFY_ROUTER_PORT": 8080, "CLOUDIFY_ROUTER_INTERNAL_PORT": 9465}


def test_without_it_the_port_of_the_addresses_is_used(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.run_directory.mkdir()
    environment = _BEHIND_A_PROXY | {"CLOUDIFY_ROUTER_PORT": "", "CLOUDIFY_SITES_PORT": "8181"}
    platform = ONE_ROUTER.assemble(home, environment)
    assert platform.settings.router.web_url == "http://127.0.0.1:8181"
    assert "CLOUDIFY_SITES_PORT" in {name for name, _, _ in ONE_ROUTER.public_ports(platform.settings)}
