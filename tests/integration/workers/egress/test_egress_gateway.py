"""The proxy that build pods share: each run by its own password, for its own time."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import pytest

from shared.errors import PlatformError
from workers.egress.accounts import ReachedHost, RunAccounts
from workers.egress.gateway import EgressGateway
from workers.egress.policy import EgressPolicy
from workers.egress.run_credentials import LONGEST_SECONDS, credentials_of
from workers.executors.kubernetes.egress import EgressGatewayAccess

pytestmark = pytest.mark.integration

TOKEN = b"t" * 32


class Served:
    def __init__(self, gateway: EgressGateway, host: str, port: int) -> None:
        self.control_port = gateway.control_port
        self.control = f"http://{host}:{gateway.control_port}"
        self.host, self.port = host, port
        self.access = EgressGatewayAccess(f"http://{host}:{port}", self.control, TOKEN)

    def connect(self, proxy_url: str, target: str) -> socket.socket:
        """A connection that has asked for a CONNECT."""
        credentials = proxy_url.removeprefix("http://").rpartition("@")[0]
        encoded = base64.b64encode(credentials.encode()).decode()
        client = socket.create_connection((self.host, self.port), timeout=30)
        client.sendall(f"CONNECT {target} HTTP/1.1\r\nProxy-Authorization: Basic {encoded}\r\n\r\n".encode())
        return client

    def ask(self, proxy_url: str, target: str) -> str:
        """The status line of a CONNECT."""
        with self.connect(proxy_url, target) as client:
            return client.makefile("rb").readline().decode()


@contextlib.contextmanager
def serving(host: str = "127.0.0.1", control_port: int = 0, *, networks: Sequence[str] = ()) -> Generator[Served]:
    listener = socket.create_server((host, 0))
    port = listener.getsockname()[1]
    gateway = EgressGateway(
        listener, (host, control_port), TOKEN, EgressPolicy([] if networks else ["allowed.example"], networks)
    )
    with contextlib.closing(gateway):
        yield Served(gateway, host, port)


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as served:
        yield served


def test_a_run_has_its_own_password_and_its_own_list(served: Served) -> None:
    first, second = served.access.proxy_url("run-1", 60), served.access.proxy_url("run-2", 60)
    assert first != second
    assert " 403 " in served.ask(first, "first.example:443")
    assert " 403 " in served.ask(second, "second.example:443")
    assert served.access.finish("run-1").blocked_hosts == ("first.example",)
    assert served.access.finish("run-1").blocked_hosts == ("first.example",)
    assert " 407 " in served.ask(first, "first.example:443")
    assert " 403 " in served.ask(second, "second.example:443")
    assert served.access.finish("run-2").blocked_hosts == ("second.example",)


def test_a_run_that_was_ended_before_it_came_is_refused(served: Served) -> None:
    assert served.access.finish("run-1").blocked_hosts == ()
    assert " 407 " in served.ask(served.access.proxy_url("run-1", 60), "first.example:443")


@pytest.mark.parametrize(
    "credentials", ["", "run-1:", "run-1:{password}", "run-1.9999999999:{password}", "{user}:", "{user}"]
)
def test_others_are_refused(served: Served, credentials: str) -> None:
    user, _, password = credentials_of(TOKEN, "run-1", int(time.time()) + 60).partition(":")
    shown = credentials.format(user=user, password=password)
    assert " 407 " in served.ask(f"http://{shown}@proxy", "first.example:443")
    assert " 403 " in served.ask(f"http://{user}:{password}@proxy", "first.example:443")


def test_a_restarted_gateway_continues_to_serve_a_run(served: Served) -> None:
    proxy_url = served.access.proxy_url("run-1", 60)
    assert " 403 " in served.ask(proxy_url, "first.example:443")
    with serving() as restarted:
        assert " 403 " in restarted.ask(proxy_url, "second.example:443")
        assert restarted.access.finish("run-1").blocked_hosts == ("second.example",)


def test_every_gateway_behind_the_name_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving("127.0.0.1") as first, serving("127.0.0.2", first.control_port) as second:
        proxy_url = first.access.proxy_url("run-1", 60)
        assert " 403 " in first.ask(proxy_url, "first.example:443")
        assert " 403 " in second.ask(proxy_url, "second.example:443")
        access = EgressGatewayAccess("http://127.0.0.1:1", f"http://gateways.invalid:{first.control_port}", TOKEN)
        _resolve_to_both(monkeypatch)
        assert access.finish("run-1").blocked_hosts == ("first.example", "second.example")


def test_what_a_run_reached_is_counted_over_all_gateways(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        named = f"127.0.0.1:{target.getsockname()[1]}"
        networks = ["127.0.0.1/32"]
        with (
            serving("127.0.0.1", networks=networks) as first,
            serving("127.0.0.2", first.control_port, networks=networks) as second,
        ):
            proxy_url = first.access.proxy_url("run-1", 60)
            for gateway in (first, second):
                with gateway.connect(proxy_url, named) as client:
                    server, _ = target.accept()
                    with server:
                        assert b" 200 " in client.recv(100)
                        client.sendall(b"q" * 10)
                        assert server.recv(100) == b"q" * 10
                        server.sendall(b"a" * 100)
                        assert client.recv(1000) == b"a" * 100
            access = EgressGatewayAccess("http://127.0.0.1:1", f"http://gateways.invalid:{first.control_port}", TOKEN)
            _resolve_to_both(monkeypatch)
            assert access.finish("run-1").reached_hosts == (ReachedHost(named, 20, 200),)


def _resolve_to_both(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def of_both(host: str, *arguments: Any, **options: Any) -> list[Any]:
        names = ("127.0.0.1", "127.0.0.2") if host == "gateways.invalid" else (host,)
        return [address for name in names for address in real(name, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", of_both)


@pytest.mark.parametrize(("seconds", "is_admitted"), [(10, True), (0, False), (LONGEST_SECONDS + 1, False)])
def test_access_ends_with_its_time(seconds: int, *, is_admitted: bool) -> None:
    accounts = RunAccounts(TOKEN, lambda: 1000.0)
    assert (accounts.find(_head("run-1", 1000 + seconds)) is not None) == is_admitted


def test_what_is_over_is_forgotten_when_no_credentials_are_valid_any_more() -> None:
    now = [1000.0]
    accounts = RunAccounts(TOKEN, lambda: now[0])
    accounts.finish("run-1")
    now[0] += LONGEST_SECONDS - 1
    accounts.forget_expired()
    assert accounts.find(_head("run-1", 1000 + LONGEST_SECONDS)) is None


def _head(run: str, ends_at: int) -> bytes:
    shown = base64.b64encode(credentials_of(TOKEN, run, ends_at).encode())
    return b"CONNECT x:443 HTTP/1.1\r\nProxy-Authorization: Basic " + shown


def test_only_the_token_ends_runs_and_makes_credentials(served: Served) -> None:
    stranger = EgressGatewayAccess(f"http://127.0.0.1:{served.port}", served.control, b"x" * 32)
    with pytest.raises(PlatformError, match="401"):
        stranger.finish("run-1")
    assert " 407 " in served.ask(stranger.proxy_url("run-1", 60), "first.example:443")


@pytest.mark.parametrize("name", ["Run", "run.1", "-", "r" * 64, "run-1\n"])
def test_other_names_are_no_runs(served: Served, name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(name)):
        served.access.proxy_url(name, 60)
