"""The internal listener answers to the hosts that the API answers to."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

from shared.metrics_listener import METRICS_PATH, start_metrics_listener
from shared.process_health import ProcessHealth
from tests.support.ports import free_ports


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("HTTP/1.1\r\nHost: 127.0.0.1:9464", 200),
        ("HTTP/1.1\r\nHost: localhost", 200),
        ("HTTP/1.1\r\nHost: Metrics.internal.", 200),
        ("HTTP/1.0", 200),
        ("HTTP/1.1\r\nHost: rebound.example.com", 421),
        ("HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: rebound.example.com", 421),
        ("HTTP/1.1", 421),
    ],
)
def test_only_known_hosts_are_answered(head: str, status: int) -> None:
    [port] = free_ports(1)
    server = start_metrics_listener(port, names=["metrics.internal"])
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=120) as client:
            client.sendall(f"GET {METRICS_PATH} {head}\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.split(b" ")[1] == str(status).encode()
        if status == 421:
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "MISDIRECTED_REQUEST"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("path", "status"), [("/live", 200), ("/ready", 503), ("/elsewhere", 404), (METRICS_PATH, 200)]
)
def test_probes_are_answered_for_a_process_that_starts(path: str, status: int) -> None:
    [port] = free_ports(1)
    server = start_metrics_listener(port, health=ProcessHealth())
    try:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        client.request("GET", path)
        assert client.getresponse().status == status
        client.close()
    finally:
        server.shutdown()
        server.server_close()
