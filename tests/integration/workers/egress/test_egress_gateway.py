"""The proxy that build pods share: each run by its own password, for its own time."""

from __future__ import annotations

import base64
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest

from shared.errors import PlatformError
from workers.egress.accounts import RunAccounts
from workers.egress.gateway import EgressGateway
from workers.egress.policy import EgressPolicy
from workers.executors.kubernetes.egress import EgressGatewayAccess

pytestmark = pytest.mark.integration

TOKEN = b"t" * 32


class Served:
    def __init__(self, gateway: EgressGateway, port: int) -> None:
        self.control = f"http://127.0.0.1:{gateway.control_port}"
        self.port = port
        self.access = EgressGatewayAccess(f"http://127.0.0.1:{port}", self.control, TOKEN)

    def ask(self, proxy_url: str, target: str) -> str:
        """The status line of a CONNECT."""
        credentials = proxy_url.removeprefix("http://").rpartition("@")[0]
        encoded = base64.b64encode(credentials.encode()).decode()
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            client.sendall(f"CONNECT {target} HTTP/1.1\r\nProxy-Authorization: Basic {encoded}\r\n\r\n".encode())
            return client.makefile("rb").readline().decode()


@pytest.fixture
def served() -> Iterator[Served]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    gateway = EgressGateway(listener, ("127.0.0.1", 0), TOKEN, EgressPolicy(["allowed.example"], []))
    with closing(gateway):
        yield Served(gateway, port)


def test_a_run_has_its_own_password_and_its_own_list(served: Served) -> None:
    first, second = served.access.register("run-1", 60), served.access.register("run-2", 60)
    assert first != second
    assert " 403 " in served.ask(first, "first.example:443")
    assert " 403 " in served.ask(second, "second.example:443")
    assert served.access.finish("run-1") == ("first.example",)
    assert served.access.finish("run-1") == ()
    assert " 407 " in served.ask(first, "first.example:443")
    assert " 403 " in served.ask(second, "second.example:443")
    assert served.access.finish("run-2") == ("second.example",)


@pytest.mark.parametrize("credentials", ["", "run-1:", "run-1:wrong", "run-2:wrong", "run-1"])
def test_others_are_refused(served: Served, credentials: str) -> None:
    served.access.register("run-1", 60)
    assert " 407 " in served.ask(f"http://{credentials}@proxy", "first.example:443")


def test_a_new_registration_ends_the_former_one(served: Served) -> None:
    former = served.access.register("run-1", 60)
    present = served.access.register("run-1", 60)
    assert " 407 " in served.ask(former, "first.example:443")
    assert " 403 " in served.ask(present, "first.example:443")


def test_an_account_ends_with_its_time() -> None:
    now = [0.0]
    accounts = RunAccounts(lambda: now[0])
    accounts.register("run-1", "password", 10)
    head = b"CONNECT x:443 HTTP/1.1\r\nProxy-Authorization: Basic " + base64.b64encode(b"run-1:password")
    assert accounts.find(head) is not None
    now[0] = 10.0
    assert accounts.find(head) is None
    accounts.end_expired()
    now[0] = 0.0
    assert accounts.find(head) is None


def test_only_the_token_registers(served: Served) -> None:
    stranger = EgressGatewayAccess(f"http://127.0.0.1:{served.port}", served.control, b"x" * 32)
    with pytest.raises(PlatformError, match="401"):
        stranger.register("run-1", 60)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/runs/Run", b"{}", 404),
        ("/runs/run-1", b"{", 400),
        ("/runs/run-1", b"{}", 400),
        ("/runs/run-1", json.dumps({"password": "", "seconds": 1}).encode(), 400),
        ("/runs/run-1", json.dumps({"password": "x", "seconds": 1e9}).encode(), 400),
        ("/runs/run-1", b"x" * 5000, 400),
    ],
)
def test_malformed_registrations_are_refused(served: Served, path: str, body: bytes, status: int) -> None:
    request = urllib.request.Request(f"{served.control}{path}", data=body, method="PUT")
    request.add_header("Authorization", "Bearer " + TOKEN.decode())
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=30)
    with raised.value:
        assert raised.value.code == status
