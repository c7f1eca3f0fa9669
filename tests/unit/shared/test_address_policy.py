"""One table of addresses against everything that contacts hosts for tenants. Nothing is resolved on a network."""

from __future__ import annotations

import ipaddress
import pathlib
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import pytest

from shared.errors import CloudifyError, ErrorCode, FailureCode, StageFailure
from shared.network.address_policy import AddressPolicy, Refused, Unresolvable, own_addresses, resolve
from shared.network.embedded_addresses import embedded_addresses
from shared.projects.repository_url import RepositoryPolicy, RepositoryUrl, parse_repository_url
from tests.support.address_cases import ADMITTED, MISLEADING, OWN_IPV4, OWN_IPV6, REFUSED
from workers.egress.policy import EgressPolicy
from workers.stages.clone.addresses import Network, parse_for_clone
from workers.stages.clone.submodules import resolve_submodule

OWN = frozenset(map(ipaddress.ip_address, ("127.0.0.1", "::1", OWN_IPV4, OWN_IPV6)))


@dataclass
class Interface:
    family: int
    address: str


@pytest.fixture(autouse=True)
def own_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with addresses of the public internet, as psutil tells them."""
    interfaces = {
        "eth0": [
            Interface(socket.AF_INET, OWN_IPV4),
            Interface(socket.AF_INET6, f"{OWN_IPV6}%eth0"),
        ],
        "lo": [Interface(socket.AF_INET, "127.0.0.1")],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces)


def answers(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, ...]) -> list[str]:
    """The system's resolver gives each of these in turn, then the last one for ever."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        addresses = found[min(len(asked), len(found)) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def url_of(host: str, scheme: str = "https") -> RepositoryUrl:
    return parse_repository_url(f"{scheme}://[{host}]/r" if ":" in host else f"{scheme}://{host}/r")


def install(host: str, networks: tuple[str, ...] = ()) -> object:
    return EgressPolicy((), networks).resolve(host, 443)


def install_through_proxy(host: str, networks: tuple[str, ...] = ()) -> object:
    return EgressPolicy((), networks).resolve(host, 443, has_upstream=True)


def clone(host: str, networks: tuple[str, ...] = ()) -> object:
    return RepositoryPolicy(AddressPolicy(networks)).admit(url_of(host))


def clone_through_proxy(host: str, networks: tuple[str, ...] = ()) -> object:
    return RepositoryPolicy(AddressPolicy(networks)).admit(url_of(host), has_proxy=True)


PATHS = [install, install_through_proxy, clone, clone_through_proxy]
Path = Callable[..., object]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_name", [False, True], ids=["literal", "name"])
def test_what_is_refused_is_refused_on_every_path(path: Path, is_name: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in REFUSED:
        host = "evil.example.com" if is_name else address.partition("%")[0]
        answers(monkeypatch, (address,))
        with pytest.raises((Refused, CloudifyError), match="private or local address"):
            raise AssertionError(f"{address} is admitted: {path(host)}")


@pytest.mark.parametrize("path", PATHS)
def test_what_is_public_is_admitted_on_every_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for address in ADMITTED:
        answers(monkeypatch, (address,))
        for host in (address, "good.example.com"):
            assert list(path(host)) == [ipaddress.ip_address(address)]  # type: ignore[call-overload]


@pytest.mark.parametrize("address", [address for address in REFUSED if "%" not in address])
def test_everything_that_a_repository_names_is_judged(address: str) -> None:
    """The project's address, a submodule's, and each address of Git LFS (its server, downloads, redirects)."""
    policy = RepositoryPolicy(AddressPolicy(), allows_files=True)
    url, parent = url_of(address), parse_repository_url("https://git.example.com/r")
    with pytest.raises(CloudifyError) as told:
        policy.check(url)
    assert told.value.code is ErrorCode.URL_FORBIDDEN
    cancelled = threading.Event()
    for judged in (
        lambda: parse_for_clone(url.public, policy),
        lambda: resolve_submodule(parent, url.public, policy),
        lambda: Network(policy, cancelled).find_route(url),
    ):
        with pytest.raises(StageFailure) as caught:
            judged()
        assert caught.value.code is FailureCode.URL_FORBIDDEN


@pytest.mark.parametrize("host", MISLEADING)
def test_hosts_that_programs_read_differently_are_refused(host: str) -> None:
    for path in PATHS:
        with pytest.raises((Refused, CloudifyError)):
            path(host)
    with pytest.raises(CloudifyError):
        RepositoryPolicy(AddressPolicy()).check(url_of(host))


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "x.localhost"])
def test_names_of_localhost_are_judged_as_loopback(host: str) -> None:
    for path in PATHS:
        with pytest.raises((Refused, CloudifyError)):
            path(host)
    with pytest.raises(CloudifyError):
        RepositoryPolicy(AddressPolicy()).check(url_of(host))
    RepositoryPolicy(AddressPolicy(["127.0.0.0/8"])).check(url_of(host, "http"))


def test_the_connection_goes_to_what_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that leads elsewhere a moment later is asked for once, and of its answers only the good are used."""
    asked = answers(monkeypatch, ("1.1.1.1", "10.0.0.1", "::ffff:127.0.0.1"), ("10.0.0.1",))
    assert [str(each) for each in EgressPolicy((), ()).resolve("rebinding.example.com", 443)] == ["1.1.1.1"]
    assert len(asked) == 1
    asked = answers(monkeypatch, ("10.0.0.1", "1.1.1.1"), ("10.0.0.1",))
    policy = RepositoryPolicy(AddressPolicy())
    assert [str(each) for each in policy.admit(url_of("rebinding.example.com"))] == ["1.1.1.1"]
    assert len(asked) == 1


def test_a_proxy_that_resolves_again_gets_no_name_that_leads_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (install_through_proxy, clone_through_proxy):
        answers(monkeypatch, ("1.1.1.1", "10.0.0.1"))
        with pytest.raises((Refused, CloudifyError)):
            path("half.example.com")
        # Reached directly, at what is listed.
        assert [str(each) for each in path("half.example.com", ("1.1.1.0/24",))] == ["1.1.1.1"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "64:ff9b:1::10.1.2.3", "2002:a01:203::1"]
)
def test_allowed_networks_are_for_everybody_and_every_form(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in PATHS:
        answers(monkeypatch, (address,))
        assert list(path("git.corp", ("10.1.0.0/16",))) == [ipaddress.ip_address(address)]  # type: ignore[call-overload]
        with pytest.raises((Refused, CloudifyError)):
            path("git.corp", ("10.2.0.0/16",))


def test_an_isatap_name_doesnt_count_as_listed() -> None:
    """Anybody's prefix can end so; the packet goes to the prefix."""
    policy = AddressPolicy(["10.1.0.0/16", "1.1.1.1/32"])
    assert not policy.is_listed(ipaddress.ip_address("2001:db8::5efe:10.1.2.3"))
    assert not policy.is_listed(ipaddress.ip_address("2001:db8::5efe:1.1.1.1"))


def test_the_operators_word_opens_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in PATHS:
        answers(monkeypatch, (OWN_IPV4,))
        assert path("git.corp", (f"{OWN_IPV4}/32",))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        # The examples of RFC 6052, 2.4, under the local prefix, and of RFC 4380, 4.
        ("64:ff9b:1:c000:2:2100::", "192.0.2.33"),
        ("64:ff9b:1:3c0:0:221::", "192.0.2.33"),
        ("64:ff9b:1:344:c0:2:2100::", "192.0.2.33"),
        ("64:ff9b:1::192.0.2.33", "192.0.2.33"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "192.0.2.45"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "65.54.227.120"),
    ],
)
def test_embedded_addresses(address: str, expected: str) -> None:
    assert ipaddress.ip_address(expected) in embedded_addresses(ipaddress.ip_address(address))


def test_plain_http_is_for_the_allowed_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    url = url_of("git.corp", "http")
    with pytest.raises(CloudifyError, match="use https://"):
        RepositoryPolicy(AddressPolicy()).check(url)
    policy = RepositoryPolicy(AddressPolicy(["10.1.0.0/16"]))
    policy.check(url)
    answers(monkeypatch, ("10.1.2.3",))
    assert policy.admit(url)
    for address in ("1.1.1.1", "10.2.0.1"):
        answers(monkeypatch, (address,))
        with pytest.raises(CloudifyError, match="CLOUDIFY_EGRESS_ALLOWED_NETWORKS"):
            policy.admit(url)
        with pytest.raises(CloudifyError):
            policy.check(url_of(address, "http"))


def test_files_are_for_administrators(monkeypatch: pytest.MonkeyPatch) -> None:
    url = parse_repository_url("file:///srv/site")
    with pytest.raises(CloudifyError, match="platform administrators"):
        RepositoryPolicy(AddressPolicy(["0.0.0.0/0"])).check(url)
    RepositoryPolicy(AddressPolicy(), allows_files=True).check(url)
    with pytest.raises(StageFailure):
        Network(RepositoryPolicy(AddressPolicy()), threading.Event()).find_route(url)


def test_names_that_dont_resolve_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(Unresolvable):
        resolve("absent.example.com", 443)
    with pytest.raises(Refused):
        resolve("127.1", 443)


def test_own_addresses_are_those_of_the_interfaces() -> None:
    assert own_addresses() == OWN - {ipaddress.ip_address("::1")}


def test_invalid_networks_are_reported() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        AddressPolicy(["10.0.0.0/99"])


def test_only_the_policy_resolves_and_only_known_modules_connect() -> None:
    """A new way out has to ask the policy: this list names all that connect, and why each may."""
    root = pathlib.Path(__file__).resolve().parents[3]
    allowed = {
        "shared/network/address_policy.py": "the policy",
        "workers/stages/clone/addresses.py": "connects to what it admitted",
        "workers/egress/proxy.py": "connects to what it admitted",
        "workers/egress/upstream.py": "the operator's own proxy",
        "workers/stages/clone/ssh_tunnel.py": "the clone's own proxy",
        "workers/stages/clone/lfs/connections.py": "connects to what find_route returned",
        "api/cli/kubernetes_secret.py": "the Kubernetes API of the pod that it runs in",
        "workers/executors/kubernetes/cluster.py": "the operator's own cluster",
        "workers/executors/kubernetes/pod/network_proof.py": "tries what has to fail, inside a pod",
        "workers/router/probe.py": "the router's own web server",
        "workers/router/peers.py": "other routers of the platform",
        "workers/router/pod.py": "the platform's API and object store, inside a site's pod",
        "workers/doctor/object_store.py": "the platform's own object store",
        "workers/exporter/certificates.py": "the platform's own stores",
        "workers/doctor/machine.py": "the operator's own registries, on the operator's command",
        "api/client/transport.py": "the user's command, on the user's machine",
    }
    words = re.compile(
        r"getaddrinfo\(|gethostbyname|create_connection\(|httpx\.(Async)?Client\(|urlopen\(|HTTPS?Connection\("
    )
    found = {
        str(path.relative_to(root))
        for package in ("api", "shared", "workers")
        for path in (root / package).rglob("*.py")
        # The stack contacts the servers that it has started itself.
        if "shared/stack" not in str(path) and words.search(path.read_text())
    }
    assert found == set(allowed)
