"""Settings of registries, certificates and the proxy for installs."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from shared.settings import SettingsError, load_settings

REQUIRED = {
    "CLOUDIFY_DATABASE_URL": "postgresql://localhost/cloudify",
    "CLOUDIFY_REDIS_URL": "redis://localhost",
    "CLOUDIFY_S3_ENDPOINT": "http://localhost:9000",
    "CLOUDIFY_S3_ACCESS_KEY": "key",
    "CLOUDIFY_S3_SECRET_KEY": "secret",
    "CLOUDIFY_SECRET_KEY": "s" * 32,
    "CLOUDIFY_ENCRYPTION_KEYS": f"one:{base64.b64encode(b'k' * 32).decode()}",
}


def test_each_has_its_place(tmp_path: Path) -> None:
    bundle = tmp_path / "authority.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\n")
    given = {
        "CLOUDIFY_NPM_REGISTRY": "https://user:hidden@npm.example.com/",
        "CLOUDIFY_PYTHON_INDEX": "https://python.example.com/simple",
        "CLOUDIFY_CA_BUNDLE": str(bundle),
        "CLOUDIFY_EGRESS_PROXY": "http://user:hidden@proxy.example.com:3128",
    }
    network = load_settings(REQUIRED | given).network
    assert network.npm_registry == given["CLOUDIFY_NPM_REGISTRY"]
    assert network.python_index == given["CLOUDIFY_PYTHON_INDEX"]
    assert network.ca_bundle == bundle
    assert network.egress_proxy == given["CLOUDIFY_EGRESS_PROXY"]
    assert "hidden" not in repr(network)


def test_no_setting_is_required() -> None:
    network = load_settings(REQUIRED).network
    assert (network.npm_registry, network.python_index, network.ca_bundle, network.egress_proxy) == ("", "", None, "")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLOUDIFY_NPM_REGISTRY", "npm.example.com"),
        ("CLOUDIFY_PYTHON_INDEX", "file:///wheels"),
        ("CLOUDIFY_CA_BUNDLE", "/absent/authority.pem"),
        ("CLOUDIFY_CA_BUNDLE", "/dev/null"),
        ("CLOUDIFY_EGRESS_PROXY", "http://proxy.example.com"),
        ("CLOUDIFY_EGRESS_PROXY", "http://proxy.example.com:banana"),
        ("CLOUDIFY_EGRESS_PROXY", "socks5://proxy.example.com:1080"),
    ],
)
def test_what_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        load_settings(REQUIRED | {name: value})
