"""Settings of what the platform trusts: closed by default, and a removed one names its successor."""

from __future__ import annotations

import pytest

from shared.settings import SettingsError, load_settings
from tests.support.environment import ENVIRONMENT as DOCKER

ENVIRONMENT = {**DOCKER, "CLOUDIFY_EXECUTOR": "bubblewrap"}


def test_registration_is_closed_unless_it_is_opened() -> None:
    assert not load_settings(ENVIRONMENT).api.registration_enabled
    assert load_settings({**ENVIRONMENT, "CLOUDIFY_REGISTRATION_ENABLED": "true"}).api.registration_enabled


@pytest.mark.parametrize("value", ["true", "1", "yes"])
def test_the_former_setting_says_what_to_set_instead(value: str) -> None:
    with pytest.raises(SettingsError, match="CLOUDIFY_EGRESS_ALLOWED_NETWORKS"):
        load_settings({**ENVIRONMENT, "CLOUDIFY_ALLOW_LOCAL_REPOSITORIES": value})


@pytest.mark.parametrize("value", ["", "false", "0"])
def test_the_former_setting_is_accepted_with_the_value_that_holds_anyway(value: str) -> None:
    assert load_settings({**ENVIRONMENT, "CLOUDIFY_ALLOW_LOCAL_REPOSITORIES": value})


@pytest.mark.parametrize("value", ["10.0.0.1/8", "10.0.0.0/99", "git.corp", "10.0.0.0/8;fd00::/8"])
@pytest.mark.parametrize("name", ["CLOUDIFY_EGRESS_ALLOWED_NETWORKS", "CLOUDIFY_TRUSTED_PROXIES"])
def test_networks_are_checked_at_the_start(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} holds"):
        load_settings({**ENVIRONMENT, name: f"192.168.0.0/16,{value}"})


def test_no_proxy_is_trusted_unless_it_is_named() -> None:
    assert load_settings(ENVIRONMENT).api.trusted_proxies == ()
    named = load_settings({**ENVIRONMENT, "CLOUDIFY_TRUSTED_PROXIES": "127.0.0.1, fd00::/8"})
    assert named.api.trusted_proxies == ("127.0.0.1", "fd00::/8")


@pytest.mark.parametrize("home", ["/", "/root", "/home/ada", "/usr/..", "/var"])
def test_the_home_is_a_folder_for_cloudify_alone(home: str) -> None:
    """Its modes are corrected at each start, which would shut everybody else out of such a folder."""
    with pytest.raises(SettingsError, match="CLOUDIFY_HOME is"):
        load_settings({**ENVIRONMENT, "CLOUDIFY_HOME": home})
