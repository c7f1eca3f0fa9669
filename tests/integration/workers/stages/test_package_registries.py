"""Installs in the real sandbox go to the registries of the settings and trust their private authority."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shared.settings import NetworkSettings
from tests.support.executors import ExecutorKind, run
from tests.support.package_registry import GREETING, HOST, NAME, PACKAGE, PackageRegistry, serving_packages
from tests.support.upstream_proxy import running_proxy
from workers.executors.base import Directory, ExecutionResult, RunOutcome
from workers.executors.layout import HOME
from workers.executors.toolchain import Toolchain

pytestmark = pytest.mark.integration

MODULE = PACKAGE.replace("-", "_")
# Of PYTHON, the toolchain's.
INSTALLS = {
    "npm": f"npm install --no-audit --no-fund --fetch-retries=0 {PACKAGE} && node -p 'require(\"{PACKAGE}\")'",
    "uv": (
        f"uv venv --quiet --python $PYTHON v && uv pip install --python v/bin/python {PACKAGE}"
        f" && v/bin/python -c 'import {MODULE}; print({MODULE}.TEXT)'"
    ),
    "pip": (
        f"$PYTHON -m pip install --quiet --target t {PACKAGE}"
        f" && PYTHONPATH=t $PYTHON -c 'import {MODULE}; print({MODULE}.TEXT)'"
    ),
}
ASKED = {"npm": f"/npm/{PACKAGE}", "uv": f"/simple/{PACKAGE}/", "pip": f"/simple/{PACKAGE}/"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PackageRegistry]:
    with serving_packages(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


def install(
    tmp_path: Path, tool: str, settings: NetworkSettings, environment: Mapping[str, str]
) -> tuple[ExecutionResult, str]:
    home, workspace = tmp_path / "home", tmp_path / "workspace"
    with ExecutorKind("bubblewrap").open(tmp_path / "run", settings, environment=environment) as executor:
        directories = (Directory(str(workspace), "/workspace"), Directory(str(home), HOME))
        script = f"PYTHON={Toolchain.discover().python}; {INSTALLS[tool]}"
        result, output = run(executor, script, workspace=workspace, network="proxy", directories=directories)
    return result, output.decode(errors="replace")


@pytest.mark.parametrize("tool", INSTALLS)
def test_the_settings_name_registry_and_authority(tmp_path: Path, registry: PackageRegistry, tool: str) -> None:
    settings = NetworkSettings(
        npm_registry=registry.npm_url,
        python_index=registry.python_url,
        ca_bundle=registry.authority,
        egress_allowed_networks=(f"{HOST}/32",),
    )
    before = len(registry.requested)
    # The worker's own environment says something else: the settings win.
    environment = {"npm_config_registry": "https://registry.invalid/", "PIP_INDEX_URL": "https://index.invalid/simple"}
    result, output = install(tmp_path, tool, settings, environment)
    assert result.outcome is RunOutcome.SUCCESS, output
    assert GREETING in output
    assert ASKED[tool] in registry.requested[before:]


def test_the_workers_environment_names_the_registry(tmp_path: Path, registry: PackageRegistry) -> None:
    settings = NetworkSettings(ca_bundle=registry.authority, egress_allowed_networks=(f"{HOST}/32",))
    result, output = install(tmp_path, "uv", settings, {"UV_DEFAULT_INDEX": registry.python_url})
    assert result.outcome is RunOutcome.SUCCESS, output
    assert GREETING in output


@pytest.mark.parametrize("tool", ["npm", "uv"])
def test_without_the_authority_nothing_is_installed(tmp_path: Path, registry: PackageRegistry, tool: str) -> None:
    settings = NetworkSettings(
        npm_registry=registry.npm_url, python_index=registry.python_url, egress_allowed_networks=(f"{HOST}/32",)
    )
    before = len(registry.requested)
    environment = {"npm_config_fetch_retries": "0", "UV_HTTP_RETRIES": "0"}
    result, output = install(tmp_path, tool, settings, environment)
    assert result.outcome is RunOutcome.USER_ERROR
    assert "certificate" in output.lower() or "UnknownIssuer" in output, output
    assert registry.requested[before:] == []


@pytest.mark.parametrize("is_asked_for_credentials", [False, True])
def test_an_upstream_proxy_reaches_hosts_without_an_address_here(
    tmp_path: Path, registry: PackageRegistry, is_asked_for_credentials: bool
) -> None:
    credentials = "builder:p@ss" if is_asked_for_credentials else ""
    with running_proxy({f"{NAME}:443": (HOST, registry.port)}, credentials) as proxy:
        user = "builder:p%40ss@" if is_asked_for_credentials else ""
        settings = NetworkSettings(
            python_index=f"https://{NAME}/simple/",
            ca_bundle=registry.authority,
            egress_proxy=f"http://{user}127.0.0.1:{proxy.port}",
        )
        result, output = install(tmp_path, "uv", settings, {})
    assert result.outcome is RunOutcome.SUCCESS, output
    assert GREETING in output
    assert set(proxy.asked) == {f"{NAME}:443"}


def test_private_addresses_stay_closed_and_a_refusal_is_reported(tmp_path: Path) -> None:
    with running_proxy({}, "builder:right") as proxy:
        settings = NetworkSettings(egress_proxy=f"http://builder:wrong@127.0.0.1:{proxy.port}")
        script = f"curl -sS http://127.0.0.2/; curl -sS http://{NAME}/; curl -sS http://{NAME}:8080/; true"
        with ExecutorKind("bubblewrap").open(tmp_path / "run", settings, environment={}) as executor:
            result, output = run(executor, script, network="proxy")
    lines = output.decode().splitlines()
    assert "private or local address" in lines[0]
    assert f"refuses {NAME}:80: it answers 407" in lines[1]
    assert f"{NAME} can't be resolved" in lines[2]
    assert proxy.asked == [f"{NAME}:80"]
    assert "wrong" not in output.decode()
    assert result.traffic.blocked_hosts == ("127.0.0.2",)


def test_networks_of_ones_own_are_reached_without_the_upstream_proxy(tmp_path: Path, registry: PackageRegistry) -> None:
    with running_proxy({}, "") as proxy:
        settings = NetworkSettings(
            python_index=registry.python_url,
            ca_bundle=registry.authority,
            egress_allowed_networks=(f"{HOST}/32",),
            egress_proxy=f"http://127.0.0.1:{proxy.port}",
        )
        result, output = install(tmp_path, "uv", settings, {})
    assert result.outcome is RunOutcome.SUCCESS, output
    assert proxy.asked == []
