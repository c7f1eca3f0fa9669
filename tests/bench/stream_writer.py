"""A process that writes logs as workers do: `python -m tests.bench.stream_writer`, which obeys JSON lines on stdin.

{"deployments", "rate", "seconds"} writes that many lines a second to each deployment through a LogWriter, 0 for as
many as go; the answer tells how many lines were stored and in what time.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import Any

from shared.db.database import Database
from shared.logs.capture.writer import LogWriter
from shared.logs.masking.redaction import Redactor
from shared.logs.notifier import RedisNotifier
from shared.logs.store import PostgresLogStore

# About what a line of a build log has.
_FILLING = " transforming src/components/Page.tsx into dist/assets/page.js (12.4 kB)"
_PIECE_LINES = 100


def stamped() -> bytes:
    return f"@{time.monotonic_ns()}@{_FILLING}\n".encode()


def write(writers: list[LogWriter], rate: float, seconds: float) -> int:
    """In turns, evenly spread, so that deployments don't write in the same moment."""
    pause = 1 / (rate * len(writers))
    began = due = time.monotonic()
    lines = 0
    while due < began + seconds:
        writers[lines % len(writers)].write("stdout", stamped())
        lines += 1
        # Builds don't tick: the next line comes after no time up to twice the mean.
        due += pause * random.uniform(0, 2)
        time.sleep(max(0, due - time.monotonic()))
    return lines


def write_all(writers: list[LogWriter], seconds: float) -> int:
    began = time.monotonic()
    lines = 0
    while time.monotonic() < began + seconds:
        for writer in writers:
            writer.write("stdout", stamped() * _PIECE_LINES)
            lines += _PIECE_LINES
    return lines


def obey(command: dict[str, Any], database: Database, notifier: RedisNotifier) -> dict[str, Any]:
    store = PostgresLogStore(database)
    writers = [
        LogWriter(store, database, notifier, deployment, "build", 1, Redactor(["a secret of the project"]))
        for deployment in command["deployments"]
    ]
    began = time.monotonic()
    rate = command["rate"]
    lines = write(writers, rate, command["seconds"]) if rate else write_all(writers, command["seconds"])
    for writer in writers:
        writer.close()
    return {"lines": lines, "seconds": time.monotonic() - began, "cpu": time.process_time()}


def main() -> None:
    database = Database(os.environ["CLOUDIFY_DATABASE_URL"])
    notifier = RedisNotifier.connect(os.environ["CLOUDIFY_REDIS_URL"])
    try:
        for line in sys.stdin:
            print(json.dumps(obey(json.loads(line), database, notifier)), flush=True)
    finally:
        notifier.close()
        database.close()


if __name__ == "__main__":
    main()
