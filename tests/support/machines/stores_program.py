"""PostgreSQL, Valkey and the object store of a test's machines, on all addresses.

Arguments: their folder, and the first of eight ports for the object store. It names files in /tmp by its ports, which
all machines share.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from shared.stack.object_store import ObjectStorePorts, ObjectStoreServer
from shared.stack.postgres import PostgresServer
from shared.stack.server import Server
from shared.stack.valkey import ValkeyServer

POSTGRES_PORT, VALKEY_PORT = 5432, 6379
PASSWORD = "of-the-stores"
EVERYWHERE = "0.0.0.0"
OBJECT_STORE_PORTS = 8


def servers(directory: Path, s3_port: int) -> list[Server]:
    ports = ObjectStorePorts(*range(s3_port, s3_port + OBJECT_STORE_PORTS))
    return [
        PostgresServer(directory / "postgres", port=POSTGRES_PORT, password=PASSWORD, listen_host=EVERYWHERE),
        ValkeyServer(directory / "valkey", port=VALKEY_PORT, password=PASSWORD, listen_host=EVERYWHERE),
        ObjectStoreServer(
            directory / "object-store",
            ports=ports,
            access_key=PASSWORD,
            secret_key=PASSWORD,
            listen_host=EVERYWHERE,
        ),
    ]


def main() -> None:
    started = servers(Path(sys.argv[1]), int(sys.argv[2]))
    for server in started:
        server.start()
    while True:
        for server in started:
            assert server.process is not None
            if server.process.poll() is not None:
                print(f"{server.name} ended with {server.process.returncode}", flush=True)
                server.start()
        time.sleep(0.2)


if __name__ == "__main__":
    main()
