"""A worker process by itself, on the tests' servers."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
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
) -> Iterator[subprocess.Popen[bytes]]:
    """`cloudify worker` with these arguments, which writes to `log`. It is ended as a service manager ends it.

    `clock` is a file with the seconds that its clock is ahead.
    """
    program = ["-m", "workers.main"] if clock is None else ["-c", _WITH_CLOCK, str(clock)]
    with log.open("wb") as errors:
        process = subprocess.Popen([sys.executable, *program, *arguments], env=environment, stderr=errors)
    try:
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
