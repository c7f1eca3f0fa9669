"""A worker or a router process by itself, on the tests' servers."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from shared.settings import ObjectStoreSettings

# The wall clock of a machine can't be set for one process: its clock adds what a file says.
_WITH_CLOCK = """
import sys
from datetime import timedelta
from pathlib import Path
from shared.clock import SystemClock
from workers.main import main
file, right = Path(sys.argv.pop(1)), SystemClock.now
SystemClock.now = lambda self: right(self) + timedelta(seconds=float(file.read_text()))
raise SystemExit(main())
"""
# As above, with what signs requests to the object store.
_ROUTER_WITH_CLOCK = """
import sys, time
from datetime import timedelta
from pathlib import Path
import minio.time
from shared.clock import SystemClock
from workers.router.main import main
file, right, right_time, right_utcnow = Path(sys.argv.pop(1)), SystemClock.now, time.time, minio.time.utcnow
def wrong(): return float(file.read_text())
SystemClock.now = lambda self: right(self) + timedelta(seconds=wrong())
time.time = lambda: right_time() + wrong()
minio.time.utcnow = lambda: right_utcnow() + timedelta(seconds=wrong())
raise SystemExit(main())
"""


def worker_environment(
    home: Path, database_url: str, redis_url: str, object_store: ObjectStoreSettings
) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("CLOUDIFY_")},
        "CLOUDIFY_HOME": str(home),
        "CLOUDIFY_DATABASE_URL": database_url,
        "CLOUDIFY_REDIS_URL": redis_url,
        "CLOUDIFY_S3_ENDPOINT": object_store.endpoint,
        "CLOUDIFY_S3_ACCESS_KEY": object_store.access_key,
        "CLOUDIFY_S3_SECRET_KEY": object_store.secret_key,
        "CLOUDIFY_S3_BUCKET": object_store.bucket,
        "CLOUDIFY_SECRET_KEY": "x" * 32,
        "CLOUDIFY_ENCRYPTION_KEYS": "k1:" + base64.b64encode(b"1" * 32).decode(),
        "CLOUDIFY_METRICS_PORT": "0",
    }


@contextmanager
def worker_process(
    environment: dict[str, str], *arguments: str, log: Path, clock: Path | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """`cloudify worker` with these arguments, which writes to `log`. It is ended as a service manager ends it.

    `clock` is a file with the seconds that its clock is ahead.
    """
    program = ["-m", "workers.main"] if clock is None else ["-c", _WITH_CLOCK, str(clock)]
    with _process(environment, [*program, *arguments], log) as process:
        yield process


@contextmanager
def router_process(
    environment: dict[str, str], *, log: Path, clock: Path | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """The agent of a router, whose web server the caller starts. `clock` as of a worker."""
    program = ["-m", "workers.router.main"] if clock is None else ["-c", _ROUTER_WITH_CLOCK, str(clock)]
    with _process(environment, program, log) as process:
        yield process


@contextmanager
def _process(environment: dict[str, str], program: list[str], log: Path) -> Generator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen([sys.executable, *program], env=environment, stdout=output, stderr=output)
    try:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
