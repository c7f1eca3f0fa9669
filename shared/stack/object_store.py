"""An embedded S3 server (SeaweedFS), from a wheel."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import ssl
import subprocess
from dataclasses import astuple, dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from shared.settings import ObjectStoreSettings
from shared.stack.object_store_tls import write_security
from shared.stack.processes import spawn
from shared.stack.server import LOOPBACK, Server, program


@dataclass(frozen=True, slots=True)
class ObjectStorePorts:
    """SeaweedFS runs four services in one process, each with an HTTP and a gRPC port."""

    s3: int
    s3_grpc: int
    master: int
    master_grpc: int
    volume: int
    volume_grpc: int
    filer: int
    filer_grpc: int


class ObjectStoreServer(Server):
    """S3 with one pair of keys, on `listen_host`. Objects survive a kill of the process.

    The other ports, on the same address, require a certificate that only the server and this process have.
    """

    name = "object-store"
    # Its shutdown closes the volumes at once, then waits 15 s for connections of its own services.
    stop_seconds = 1.5

    def __init__(
        self,
        directory: Path,
        *,
        ports: ObjectStorePorts,
        access_key: str,
        secret_key: str,
        log_path: Path | None = None,
        listen_host: str = LOOPBACK,
    ) -> None:
        super().__init__(directory, log_path)
        self._listen_host = listen_host
        self._ports = ports
        self._access_key = access_key
        self._secret_key = secret_key
        self._tls: ssl.SSLContext | None = None

    def settings(self, bucket: str = "cloudify") -> ObjectStoreSettings:
        return ObjectStoreSettings(
            endpoint=f"http://127.0.0.1:{self._ports.s3}",
            access_key=self._access_key,
            secret_key=self._secret_key,
            bucket=bucket,
        )

    def _program(self) -> Path:
        return program("weed")

    def _launch(self) -> subprocess.Popen[bytes]:
        # The paths are relative, because a comma in one would make it a list.
        (self.directory / "data").mkdir(exist_ok=True)
        self._write_keys()
        self._tls = write_security(self.directory)
        return spawn(
            [self._program(), *self._arguments()],
            log_path=self.log_path,
            directory=self.directory,
            environment={
                # A soft limit: near it the collector works harder, but no allocation fails. At 224 MiB and less it runs
                # all the time, though half of that is in use, and takes a tenth of a core from the builds.
                "GOMEMLIMIT": os.environ.get("GOMEMLIMIT", "256MiB"),
                "GOGC": "50",
                # A bucket grows by one volume at a time instead of seven.
                "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
            },
        )

    def _write_keys(self) -> None:
        keys = self.directory / "s3.json"
        keys.unlink(missing_ok=True)
        keys.touch(mode=0o600)
        identity = {
            "name": "cloudify",
            "credentials": [{"accessKey": self._access_key, "secretKey": self._secret_key}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        keys.write_text(json.dumps({"identities": [identity]}))

    def _arguments(self) -> list[str]:
        ports = self._ports
        return [
            "server",
            "-dir=data",
            "-ip=127.0.0.1",
            f"-ip.bind={self._listen_host}",
            f"-master.port={ports.master}",
            f"-master.port.grpc={ports.master_grpc}",
            f"-volume.port={ports.volume}",
            f"-volume.port.grpc={ports.volume_grpc}",
            "-filer",
            f"-filer.port={ports.filer}",
            f"-filer.port.grpc={ports.filer_grpc}",
            # Sockets need no credentials and serve everything, so they are in the private directory.
            "-filer.localSocket=filer.sock",
            "-s3",
            f"-s3.port={ports.s3}",
            f"-s3.port.grpc={ports.s3_grpc}",
            "-s3.localSocket=s3.sock",
            "-s3.config=s3.json",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            # There is no other candidate for the election, so the usual wait of 10 s after a restart is unnecessary.
            "-master.electionTimeout=500ms",
            "-master.heartbeatInterval=100ms",
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=10000",
            "-volume.minFreeSpace=256MiB",
            "-volume.preStopSeconds=0",
        ]

    def stop(self) -> None:
        super().stop()
        # After SIGKILL its sockets remain; their paths are fixed in the program.
        for port in astuple(self._ports):
            for leftover in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - SeaweedFS puts them there
                with contextlib.suppress(OSError):
                    leftover.unlink()

    def is_ready(self) -> bool:
        # The gateway answers before the disk is registered with the master; writes would fail until then.
        try:
            master = f"https://127.0.0.1:{self._ports.master}/dir/status"
            with urlopen(master, timeout=1, context=self._tls) as answer:
                if json.load(answer)["Topology"]["Max"] <= 0:
                    return False
            urlopen(f"http://127.0.0.1:{self._ports.s3}/", timeout=1).close()
        except HTTPError as error:
            # A server that answers refuses anonymous requests.
            return error.code == http.client.FORBIDDEN
        except (URLError, OSError, http.client.HTTPException, ValueError, KeyError):
            return False
        return True
