"""The image's health check asks the listener that its container has."""

from __future__ import annotations

import socket

from shared.metrics_listener import start_metrics_listener
from shared.process_health import ProcessHealth
from shared.stack.health_check import is_alive
from tests.support.ports import free_ports


def test_a_worker_is_asked_at_its_internal_listener() -> None:
    api, port = free_ports(2)
    ports = {"CLOUDIFY_API_PORT": str(api), "CLOUDIFY_METRICS_PORT": str(port)}
    assert not is_alive(ports)
    server = start_metrics_listener(port, health=ProcessHealth())
    try:
        assert is_alive(ports)
        assert not is_alive({**ports, "CLOUDIFY_METRICS_PORT": "0"})
    finally:
        server.shutdown()
        server.server_close()


def test_an_api_that_does_not_answer_is_not_alive_whatever_its_metrics_say() -> None:
    [port] = free_ports(1)
    server = start_metrics_listener(port, health=ProcessHealth())
    try:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            ports = {"CLOUDIFY_API_PORT": str(silent.getsockname()[1]), "CLOUDIFY_METRICS_PORT": str(port)}
            assert not is_alive(ports)
    finally:
        server.shutdown()
        server.server_close()
