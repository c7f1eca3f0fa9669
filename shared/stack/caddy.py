"""The site router: Caddy with a static configuration, from a wheel."""

from __future__ import annotations

import http.client
import re
import subprocess
from pathlib import Path

from shared.stack.processes import spawn
from shared.stack.server import Server


def arguments(configuration: str) -> list[str | Path]:
    """Of Caddy, with a configuration of this folder."""
    return ["run", "--adapter", "caddyfile", "--config", Path(__file__).with_name(configuration)]


class CaddyServer(Server):
    """Serves `<label>.<domain>` from `sites_directory`; the Caddyfile in this folder describes the layout."""

    name = "caddy"

    def __init__(
        self,
        directory: Path,
        *,
        sites_directory: Path,
        port: int,
        domain: str = "localhost",
        host: str = "127.0.0.1",
        agent: str = "127.0.0.1:9",
        log_path: Path | None = None,
    ) -> None:
        """`agent`: host and port of the router's internal listener, which fetches sites that aren't here yet."""
        super().__init__(directory, log_path)
        self._agent = agent
        self._sites_directory = sites_directory
        self._port = port
        self._domain = domain
        self._host = host

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def _working_directory(self) -> Path:
        return self._sites_directory

    def _launch(self) -> subprocess.Popen[bytes]:
        self._sites_directory.mkdir(parents=True, exist_ok=True)
        return spawn(
            [self._program(), *arguments("Caddyfile")],
            log_path=self.log_path,
            # Caddy resolves roots relative to its working directory, so no path must be quoted in its configuration.
            directory=self._sites_directory,
            environment={
                "CADDY_PORT": str(self._port),
                "CADDY_BIND": self._host,
                "CADDY_AGENT": self._agent,
                "CADDY_DOMAIN_PATTERN": re.escape(self._domain),
                "XDG_DATA_HOME": str(self.directory),
                "XDG_CONFIG_HOME": str(self.directory),
                "GOMEMLIMIT": "64MiB",
                "GOGC": "50",
            },
        )

    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=1)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status == http.client.NOT_FOUND
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
