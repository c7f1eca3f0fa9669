"""A Valkey with a replica behind one name, which can fail over while the replica lacks the last writes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from shared.queue.connection import connect_redis
from shared.stack.valkey import ValkeyServer
from tests.support.freezing_relay import FreezingRelay
from tests.support.ports import free_ports
from tests.support.running_platform import TIMEOUT_SECONDS, wait_for

_PASSWORD = "x" * 32


class FailoverPair:
    """`url` is the name that clients know."""

    def __init__(self, primary: ValkeyServer, replica: ValkeyServer, name: FreezingRelay, link: FreezingRelay) -> None:
        self._primary, self._replica = primary, replica
        self._name, self._link = name, link
        self.url = f"redis://:{_PASSWORD}@127.0.0.1:{name.port}/0"

    def stop_replication(self) -> None:
        """The replica has everything that was written until now, and nothing that is written from now on."""
        with connect_redis(self._primary.url, timeout_seconds=TIMEOUT_SECONDS) as primary:
            assert _execute(primary, "WAIT", 1, 60_000) == 1
            self._link.freeze()

    def fail_over(self) -> None:
        """The primary dies, and the replica, which lacks some of its writes, is the primary."""
        process = self._primary.process
        assert process is not None
        with (
            connect_redis(self._primary.url, timeout_seconds=TIMEOUT_SECONDS) as primary,
            connect_redis(self._replica.url, timeout_seconds=TIMEOUT_SECONDS) as replica,
        ):
            written = primary.info("replication")["master_repl_offset"]
            assert written > replica.info("replication")["slave_repl_offset"]
            process.kill()
            process.wait()
            _execute(replica, "REPLICAOF", "NO", "ONE")
        self._name.move(self._replica.port)


@contextmanager
def failover_pair(folder: Path) -> Generator[FailoverPair]:
    with ExitStack() as stack:
        servers: list[ValkeyServer] = []
        for name, port in zip(("primary", "replica"), free_ports(2), strict=True):
            server = ValkeyServer(folder / name, port=port, password=_PASSWORD)
            stack.callback(server.stop)
            server.start()
            server.wait(TIMEOUT_SECONDS)
            servers.append(server)
        primary, replica = servers
        link = stack.enter_context(closing(FreezingRelay(primary.port)))
        with connect_redis(replica.url, timeout_seconds=TIMEOUT_SECONDS) as redis:
            _execute(redis, "CONFIG", "SET", "masterauth", _PASSWORD)
            _execute(redis, "REPLICAOF", "127.0.0.1", link.port)
            wait_for(lambda: redis.info("replication")["master_link_status"] == "up", what="the replica has caught up")
        yield FailoverPair(primary, replica, stack.enter_context(closing(FreezingRelay(primary.port))), link)


def _execute(redis: Any, *words: object) -> Any:
    return redis.execute_command(*words)
