"""PostgreSQL, Valkey and the object store of a test's machines, on all addresses, in the folder that is named."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from shared.stack.object_store import ObjectStorePorts, ObjectStoreServer
from shared.stack.postgres import PostgresServer
from shared.stack.server import Server
from shared.stack.valkey import ValkeyServer

POSTGRES_PORT, VALKEY_PORT, S3_PORT = 5432, 6379, 8333
PASSWORD = "of-the-stores"
EVERYWHERE = "0.0.0.0"
_OTHER_PORTS = {"s3_grpc": 18333, "master": 9333, "master_grpc": 19333, "volume": 8080, "volume_grpc": 18080}


def servers(directory: Path) -> list[Server]:
    ports = ObjectStorePorts(s3=S3_PORT, filer=8888, filer_grpc=18888, **_OTHER_PORTS)
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
    started = servers(Path(sys.argv[1]))
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
