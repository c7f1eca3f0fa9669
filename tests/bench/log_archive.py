"""Replaying a log of 100 MB from PostgreSQL and from the object store, and what moving it there costs.

`python -m tests.bench log-archive [--megabytes 100] [--rounds 3]`. Two logs of the same lines, one of them moved. Pages
are those of a stream (64 KiB) and of the largest kind (1 MiB); each round reads both logs in every way, so that what
else the machine does hits both. Figures are medians; MB are of the lines' text, 10^6 bytes.
"""

from __future__ import annotations

import argparse
import random
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import psutil

from schemas.logs import LogEntry, LogLine
from shared.db.database import Database
from shared.db.migrate import migrate
from shared.logs.archive.compactor import LogCompactor
from shared.logs.archive.store import ArchiveReader
from shared.logs.store import PostgresLogStore
from shared.stack.object_store import ObjectStorePorts, ObjectStoreServer
from shared.stack.ports import free_ports
from shared.stack.postgres import PostgresServer
from shared.storage.object_store import S3ArtifactStore
from tests.support.log_rows import end, new_deployment

_BATCH = 400
_STREAM_PAGE, _LARGE_PAGE = 64 * 1024, 1024 * 1024


class Sides(NamedTuple):
    """Seconds by round."""

    chunks: list[float]
    archive: list[float]


def write_log(database: Database, lines: list[LogEntry]) -> tuple[str, int]:
    """A finished log of these lines; returns the deployment and the bytes of its chunks."""
    store, deployment_id = PostgresLogStore(database, maximum_bytes=2**40), new_deployment(database)
    for begin in range(0, len(lines), _BATCH):
        with database.transaction() as connection:
            store.append(connection, deployment_id, lines[begin : begin + _BATCH], fence=None)
    with database.transaction() as connection:
        store.append(connection, deployment_id, [end()], fence=None)
    size = database.fetch_value(
        int, "SELECT sum(length(entries)) FROM log_chunks WHERE deployment_id = %(id)s", {"id": deployment_id}
    )
    return deployment_id, size or 0


def build_output(megabytes: float) -> list[LogEntry]:
    """Lines as bundlers and installers print them."""
    generator = random.Random(1)
    lines: list[LogEntry] = []
    size = 0
    while size < megabytes * 1e6:
        number = len(lines)
        module = generator.randbytes(8).hex()
        text = f"[{number:07d}] transforming src/components/{module}.tsx ({number % 977} modules) in {number % 83} ms"
        lines.append(LogLine(timestamp=1_700_000_000_000 + number, stage="build", stream="stdout", text=text))
        size += len(text)
    return lines


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def replay(store: PostgresLogStore, deployment_id: str, last_seq: int, *, limit: int, maximum_bytes: int) -> None:
    after = 0
    while page := store.read(deployment_id, after=after, limit=limit, maximum_bytes=maximum_bytes):
        after = page[-1].seq
    assert after == last_seq


def report(name: str, sides: Sides, shown: Callable[[float], str]) -> None:
    chunks, archive = statistics.median(sides.chunks), statistics.median(sides.archive)
    print(f"{name:<46} {shown(chunks):>14} {shown(archive):>14} {archive / chunks:8.2f} x", flush=True)


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def run(database: Database, objects: S3ArtifactStore, folder: Path, options: argparse.Namespace) -> None:
    lines = build_output(options.megabytes)
    text_bytes = sum(len(entry.text) for entry in lines if isinstance(entry, LogLine))
    last_seq = len(lines) + 1
    kept, size_of_chunks = write_log(database, lines)
    moved, _ = write_log(database, lines)
    del lines
    seconds, peak = compact(database, objects, folder, moved)
    size_bytes = database.fetch_value(
        int, "SELECT size_bytes FROM log_archives WHERE deployment_id = %(id)s", {"id": moved}
    )
    assert size_bytes is not None
    print(f"{last_seq} entries, {text_bytes / 1e6:.0f} MB of text")
    print(f"moved in {seconds:.1f} s ({text_bytes / 1e6 / seconds:.0f} MB/s), memory grew by {peak / 1e6:.0f} MB")
    print(f"chunks {size_of_chunks / 1e6:.1f} MB, object {size_bytes / 1e6:.1f} MB")
    print(f"{'':<46} {'PostgreSQL':>14} {'object store':>14} {'ratio':>10}")

    def fresh() -> PostgresLogStore:
        return PostgresLogStore(database, ArchiveReader(objects))

    def both(action: Callable[[PostgresLogStore, str], object], repeats: int = 1) -> Sides:
        sides = Sides([], [])
        for _ in range(options.rounds * repeats):
            for deployment_id, times in ((kept, sides.chunks), (moved, sides.archive)):
                store = fresh()
                times.append(timed(lambda store=store, log=deployment_id: action(store, log)))
        return sides

    def speed(seconds: float) -> str:
        return f"{text_bytes / 1e6 / seconds:.0f} MB/s"

    first = both(lambda store, log: store.read(log, after=0, limit=1000, maximum_bytes=_STREAM_PAGE), 5)
    report("first page of a stream, nothing known before", first, milliseconds)
    middle = both(lambda store, log: store.read(log, after=last_seq // 2, limit=1000, maximum_bytes=_STREAM_PAGE), 5)
    report("a page in the middle", middle, milliseconds)
    last = both(lambda store, log: store.read_lines(log, after=None, limit=100, is_backward=True), 5)
    report("the last 100 lines", last, milliseconds)
    for name, limit, size in (("a stream", 1000, _STREAM_PAGE), ("1 MiB", 1_000_000, _LARGE_PAGE)):
        turn = partial(replay, last_seq=last_seq, limit=limit, maximum_bytes=size)
        report(f"replay by pages of {name}", both(turn), speed)


def compact(database: Database, objects: S3ArtifactStore, folder: Path, deployment_id: str) -> tuple[float, int]:
    """Seconds, and by how many bytes this process grew meanwhile at most."""
    process, over = psutil.Process(), threading.Event()
    objects.ping()
    before = process.memory_info().rss
    peak = before

    def sample() -> None:
        nonlocal peak
        while not over.wait(0.02):
            peak = max(peak, process.memory_info().rss)

    sampler = threading.Thread(target=sample)
    sampler.start()
    compactor = LogCompactor(database=database, store=objects, directory=folder / "archives", after_seconds=0.0)
    try:
        seconds = timed(lambda: compactor.compact(deployment_id))
    finally:
        over.set()
        sampler.join()
    return seconds, peak - before


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench log-archive")
    parser.add_argument("--megabytes", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=3)
    options, _ = parser.parse_known_args(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="cloudify-bench-") as name:
        folder = Path(name)
        [port] = free_ports(1)
        postgres = PostgresServer(folder / "postgres", port=port, password=secrets.token_hex(16), is_durable=True)
        objects = ObjectStoreServer(
            folder / "objects", ports=ObjectStorePorts(*free_ports(8)), access_key="bench", secret_key="b" * 40
        )
        try:
            for server in (postgres, objects):
                server.start()
                server.wait(60)
            migrate(postgres.url)
            database = Database(postgres.url)
            run(database, S3ArtifactStore(objects.settings()), folder, options)
            database.close()
        finally:
            objects.stop()
            postgres.stop()


if __name__ == "__main__":
    main()
