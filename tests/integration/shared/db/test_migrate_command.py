"""`cloudify migrate` with a database that starts at the same time."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Generator
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from api.cli.commands.processes import migrate
from shared.db.migrate import is_migrated
from shared.stack.postgres import PostgresServer
from tests.support.databases import fresh_database
from tests.support.environment import ENVIRONMENT
from workers.egress.tunnel import Tunnel

pytestmark = pytest.mark.integration

_REFUSED = 2


@contextlib.contextmanager
def starting(port: int) -> Generator[int]:
    """A port that leads to another one after it has broken off the first connections."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        accepted = 0
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            accepted += 1
            if accepted <= _REFUSED:
                client.close()
            else:
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as server:
            Tunnel(client, server).run()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def _migrate(url: str, *arguments: str) -> Result:
    settings = ENVIRONMENT | {"CLOUDIFY_DATABASE_URL": url, "CLOUDIFY_EXECUTOR": "bubblewrap"}
    return CliRunner().invoke(migrate, arguments, env=settings)


def test_it_waits_for_a_database_that_starts(postgres_server: PostgresServer) -> None:
    with fresh_database(postgres_server, "template0") as url:
        own = urlsplit(url)
        assert own.port is not None
        with starting(own.port) as port:
            late = own._replace(netloc=own.netloc.replace(f":{own.port}", f":{port}")).geturl()
            assert _migrate(late).exit_code == 1
            done = _migrate(late, "--wait-seconds", "300")
            assert done.exit_code == 0, done.output
        assert is_migrated(url)


def test_it_names_a_database_that_does_not_answer() -> None:
    done = _migrate("postgresql://nobody@127.0.0.1:1/none", "--wait-seconds", "0")
    assert done.exit_code == 1
    assert "The database can't be migrated at the moment" in done.output
