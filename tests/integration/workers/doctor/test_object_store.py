"""What the doctor says of object stores that are misconfigured in the ways that real ones are."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from shared.settings import NetworkSettings, ObjectStoreSettings
from shared.stack.object_store import ObjectStorePorts, ObjectStoreServer
from shared.stack.server import program
from shared.storage.object_store import S3ArtifactStore
from tests.support.ports import free_ports
from tests.support.running_platform import wait_for
from workers.doctor.findings import Status
from workers.doctor.object_store import check_object_store

pytestmark = pytest.mark.integration

NETWORK = NetworkSettings()
SECRET = "s" * 32
# Access key → what it may do. The last one is for requests without a key.
RIGHTS = {
    "owner": ["Admin", "Read", "List", "Tagging", "Write"],
    "reader": ["Read", "List"],
    "no-lister": ["Read", "Write"],
}


class StoreWithRights(ObjectStoreServer):
    strangers: tuple[str, ...] = ()

    def _write_keys(self) -> None:
        identities = [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "actions": actions}
            for name, actions in RIGHTS.items()
        ]
        if self.strangers:
            identities.append({"name": "anonymous", "credentials": [], "actions": list(self.strangers)})
        (self.directory / "s3.json").write_text(json.dumps({"identities": identities}))


class OpenStore(StoreWithRights):
    strangers = ("Read",)


def running(kind: type[StoreWithRights], directory: Path) -> Iterator[ObjectStoreSettings]:
    ports = ObjectStorePorts(*free_ports(8))
    server = kind(directory, ports=ports, access_key="owner", secret_key=SECRET)
    server.start()
    try:
        server.wait(120)
        settings = server.settings("examined")
        S3ArtifactStore(settings).ping()
        yield settings
    finally:
        server.stop()


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreSettings]:
    yield from running(StoreWithRights, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def open_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreSettings]:
    yield from running(OpenStore, tmp_path_factory.mktemp("open-store"))


def examined(settings: ObjectStoreSettings) -> dict[str, Status]:
    store = S3ArtifactStore(settings, retry_seconds=0.0)
    findings = list(check_object_store(store, settings, NETWORK))
    assert all(finding.advice for finding in findings if finding.status is not Status.OK), findings
    return {finding.subject: finding.status for finding in findings}


def left(settings: ObjectStoreSettings) -> list[str]:
    return list(S3ArtifactStore(replace(settings, access_key="owner", link_endpoint="")).list(""))


SIGNED = ("object store: signed GET", "object store: signed upload", "object store: strangers")


def test_a_store_that_does_everything(settings: ObjectStoreSettings) -> None:
    assert examined(settings) == dict.fromkeys(("object store", *SIGNED), Status.OK)
    assert left(settings) == []


@pytest.mark.parametrize(
    ("access_key", "wrong"),
    [
        ("reader", {"put"}),
        ("no-lister", {"list"}),
    ],
)
def test_a_key_that_may_not_do_everything(settings: ObjectStoreSettings, access_key: str, wrong: set[str]) -> None:
    found = examined(replace(settings, access_key=access_key))
    problems = {subject for subject, status in found.items() if status is Status.PROBLEM}
    assert problems == {f"object store: {step}" for step in wrong}
    assert "object store" not in found
    assert left(settings) == []


def test_a_store_that_is_open_to_strangers(open_settings: ObjectStoreSettings) -> None:
    found = examined(open_settings)
    assert found.pop("object store: strangers") is Status.PROBLEM
    assert set(found.values()) == {Status.OK}


@pytest.fixture
def proxy(settings: ObjectStoreSettings, tmp_path: Path) -> Iterator[Callable[[str], ObjectStoreSettings]]:
    """Starts a proxy in front of the store; the settings by which pods go through it."""
    started: list[subprocess.Popen[bytes]] = []

    def start(site: str) -> ObjectStoreSettings:
        [port] = free_ports(1)
        address, configuration = f"http://127.0.0.1:{port}", tmp_path / "Caddyfile"
        configuration.write_text("{\nadmin off\n}\n" + f"{address} {{\n{site.format(store=settings.endpoint)}\n}}\n")
        command = [program("caddy"), "run", "--adapter", "caddyfile", "--config", configuration]
        environment = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))

        def answers() -> bool:
            try:
                return bool(httpx.get(address, trust_env=False).status_code)
            except httpx.HTTPError:
                return False

        wait_for(answers, what="the proxy answers")
        return replace(settings, link_endpoint=address)

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_links_by_a_proxy_that_keeps_the_request(proxy: Callable[[str], ObjectStoreSettings]) -> None:
    assert set(examined(proxy("reverse_proxy {store}")).values()) == {Status.OK}


@pytest.mark.parametrize(
    ("site", "step"),
    [
        (
            "reverse_proxy {store} {{\nheader_up Host other.invalid\nheader_up X-Forwarded-Host other.invalid\n}}",
            "signed GET",
        ),
        ("@form method POST\nrespond @form 405\nreverse_proxy {store}", "signed upload"),
        ("@form method POST\nrespond @form 200\nreverse_proxy {store}", "signed upload"),
        ("@bare not query X-Amz-Signature=*\nrespond @bare 200\nreverse_proxy {store}", "strangers"),
    ],
)
def test_links_by_a_proxy_that_interferes(proxy: Callable[[str], ObjectStoreSettings], site: str, step: str) -> None:
    found = examined(proxy(site))
    assert found["object store"] is Status.OK
    assert found[f"object store: {step}"] is Status.PROBLEM


def test_an_address_that_only_pods_reach(settings: ObjectStoreSettings) -> None:
    found = examined(replace(settings, link_endpoint="http://127.0.0.1:9"))
    assert found == {"object store": Status.OK, "object store links": Status.WARNING}
    assert left(settings) == []
