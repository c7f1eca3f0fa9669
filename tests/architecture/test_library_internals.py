"""What Cloudify relies on in libraries beyond their documented interfaces, by name.

A failure here means that a new version changed such a part: look at the module that is named, adapt it, then raise the
library's upper bound in pyproject.toml.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import docker.api.client
import docker.transport
import dramatiq.broker
import dramatiq.worker
import psycopg
import pytest
import redis
import redis.connection
import uvicorn
from uvicorn.protocols.http import flow_control, httptools_impl
from uvicorn.server import ServerState


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def attributes_set_by(cls: type[Any]) -> set[str]:
    """The attributes that methods of the class give to instances."""
    return set(re.findall(r"\bself\.(\w+)(?:: [^=\n]+)? = ", inspect.getsource(cls)))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # api/edge/connection.py
        (httptools_impl.HttpToolsProtocol._start_asgi_task, ["self", "cycle", "app"]),
        (httptools_impl.HttpToolsProtocol.connection_made, ["self", "transport"]),
        (httptools_impl.HttpToolsProtocol.connection_lost, ["self", "exc"]),
        (httptools_impl.HttpToolsProtocol.data_received, ["self", "data"]),
        (httptools_impl.HttpToolsProtocol.on_message_begin, ["self"]),
        (httptools_impl.HttpToolsProtocol.on_url, ["self", "url"]),
        (httptools_impl.HttpToolsProtocol.on_header, ["self", "name", "value"]),
        (httptools_impl.HttpToolsProtocol.on_headers_complete, ["self"]),
        (httptools_impl.HttpToolsProtocol.on_body, ["self", "body"]),
        (httptools_impl.HttpToolsProtocol.on_message_complete, ["self"]),
        (httptools_impl.HttpToolsProtocol.send_400_response, ["self", "msg"]),
        (httptools_impl.HttpToolsProtocol.timeout_keep_alive_handler, ["self"]),
        (httptools_impl.HttpToolsProtocol.shutdown, ["self"]),
        (flow_control.FlowControl.__init__, ["self", "transport"]),
        (flow_control.FlowControl.resume_reading, ["self"]),
        # api/edge/server.py
        (uvicorn.Server.startup, ["self", "sockets"]),
        (uvicorn.Server.on_tick, ["self", "counter"]),
        (uvicorn.Server.shutdown, ["self", "sockets"]),
        # shared/db/database.py
        (psycopg.Connection.wait, ["self", "gen", "interval", "timeout"]),
        # shared/queue/connection.py
        (redis.ConnectionPool.release, ["self", "connection"]),
        (redis.connection.AbstractConnection.send_command, ["self", "args", "kwargs"]),
        # workers/executors/docker/connection.py
        (docker.transport.UnixHTTPAdapter.get_connection, ["self", "url", "proxies"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_a_method_that_is_overridden_or_called_takes_the_same_arguments(
    function: Callable[..., Any], expected: list[str]
) -> None:
    assert parameters(function) == expected


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        # api/edge/connection.py and api/edge/server.py
        (
            httptools_impl.HttpToolsProtocol,
            {"client", "cycle", "flow", "headers", "loop", "pipeline", "server_state", "timeout_keep_alive_task"}
            | {"transport", "url"},
        ),
        (
            httptools_impl.RequestResponseCycle,
            {"disconnected", "keep_alive", "message_event", "more_body", "response_complete", "response_started"},
        ),
        (uvicorn.Server, {"force_exit", "server_state", "servers", "should_exit"}),
        (ServerState, {"connections", "default_headers"}),
        # shared/queue/dramatiq/broker.py and shared/queue/dramatiq/lease_context.py
        (dramatiq.broker.MessageProxy, {"_exception"}),
        (dramatiq.worker.Worker, {"work_queue", "worker_threads"}),
        # workers/executors/docker/connection.py
        (docker.transport.UnixHTTPAdapter, {"socket_path"}),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_an_object_has_the_attributes_that_are_read_or_replaced(cls: type[Any], expected: set[str]) -> None:
    assert expected - attributes_set_by(cls) == set()


def test_dramatiq_uses_no_more_of_its_work_queue_than_ours_has() -> None:
    """shared/queue/dramatiq/work_queue.py takes the place of the queue between consumers and worker threads."""
    used = set(re.findall(r"work_queue\.(\w+)", inspect.getsource(dramatiq.worker)))
    assert used == {"get", "join", "put", "task_done", "unfinished_tasks"}


def test_uvicorn_starts_each_request_through_the_overridden_method() -> None:
    """api/edge/connection.py learns there which request is being answered."""
    protocol = httptools_impl.HttpToolsProtocol
    for caller in (protocol.on_headers_complete, protocol.on_response_complete):
        assert "self._start_asgi_task(" in inspect.getsource(caller)


def test_uvicorn_has_a_status_line_for_each_status() -> None:
    assert httptools_impl.STATUS_LINE[503] == b"HTTP/1.1 503 Service Unavailable\r\n"


def test_redis_connections_can_be_used_without_the_client() -> None:
    """shared/queue/connection.py sends commands over connections of the pool itself."""
    connection = redis.ConnectionPool.from_url("redis://127.0.0.1:1").make_connection()
    assert connection.is_connected is False
    assert parameters(connection.can_read)[0] == "timeout"
    assert inspect.signature(redis.ConnectionPool.get_connection).bind(None)
    assert inspect.signature(type(connection).read_response).bind(None)


def test_psycopg_waits_for_answers_in_the_overridden_method() -> None:
    """shared/db/database.py bounds the wait for each answer there."""
    for method in (psycopg.Cursor.execute, psycopg.Connection.commit, psycopg.Connection.rollback):
        assert ".wait(" in inspect.getsource(method), method.__qualname__


def test_docker_hands_out_the_socket_of_an_attached_container() -> None:
    """workers/executors/docker/connection.py takes the socket out of the reader, and keeps the response with it."""
    source = inspect.getsource(docker.api.client.APIClient._get_raw_response_socket)
    assert "sock._response = response" in source
