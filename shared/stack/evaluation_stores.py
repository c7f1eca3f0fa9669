"""`python -m shared.stack.evaluation_stores PASSWORD_FILE`: PostgreSQL, Valkey and an S3 server for a try in a cluster.

One process of one pod, reachable from others with one password. Not for production: without replicas, TLS or backup.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.settings import Settings
from shared.stack.errors import BusyPort, StackError
from shared.stack.home import Home
from shared.stack.object_store import ObjectStorePorts, ObjectStoreServer
from shared.stack.platform import Assembly, Platform, PublicPort, preliminary_settings
from shared.stack.postgres import PostgresServer
from shared.stack.supervisor import StopRequested, Supervisor
from shared.stack.valkey import ValkeyServer

POSTGRES_PORT, VALKEY_PORT, S3_PORT = 5432, 6379, 8333
ACCESS_KEY = "cloudify"
_EVERYWHERE = "0.0.0.0"
_PASSWORD_CHARACTERS = 16


def assembly(password: str, *, ports: Mapping[str, int] | None = None) -> Assembly:
    """`ports`: others than the fixed ones of PostgreSQL, Valkey and S3, by the names in Home.internal_ports."""

    def build(home: Home, environment: Mapping[str, str]) -> Platform:
        fixed = {"postgres": POSTGRES_PORT, "valkey": VALKEY_PORT, "s3": S3_PORT, **(ports or {})}
        used = home.internal_ports() | fixed
        servers = (
            PostgresServer(
                home.directory / "postgres",
                port=used["postgres"],
                password=password,
                log_path=home.log_path(PostgresServer.name),
                listen_host=_EVERYWHERE,
                # Pods of other nodes have addresses of other networks.
                clients="all",
            ),
            ValkeyServer(
                home.directory / "valkey",
                port=used["valkey"],
                password=password,
                log_path=home.log_path(ValkeyServer.name),
                listen_host=_EVERYWHERE,
            ),
            ObjectStoreServer(
                home.directory / "object-store",
                ports=ObjectStorePorts(**{name: used[name] for name in ObjectStorePorts.__slots__}),
                access_key=ACCESS_KEY,
                secret_key=password,
                log_path=home.log_path(ObjectStoreServer.name),
                listen_host=_EVERYWHERE,
            ),
        )
        return Platform(preliminary_settings(home.directory, environment), environment, servers, ())

    return Assembly(preliminary_settings, _no_ports, build)


def _no_ports(settings: Settings) -> Sequence[PublicPort]:
    return ()


def main(arguments: Sequence[str] | None = None) -> int:
    [password_file] = sys.argv[1:] if arguments is None else arguments
    password = Path(password_file).read_text().strip()
    if len(password) < _PASSWORD_CHARACTERS or not password.isalnum():
        _say(f"The password in {password_file} needs at least {_PASSWORD_CHARACTERS} letters and digits.")
        return 2
    home = Home(Path(os.environ.get("CLOUDIFY_HOME") or ".cloudify").absolute())
    supervisor = Supervisor(home, os.environ, _say, assembly(password))
    try:
        supervisor.start()
        _say("PostgreSQL, Valkey and the object store run, for evaluation only.")
        supervisor.run()
    except StopRequested:
        return 0
    except (BusyPort, StackError, OSError) as error:
        _say(str(error))
        return 1
    finally:
        supervisor.stop()
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - shown where the process was started


if __name__ == "__main__":
    raise SystemExit(main())
