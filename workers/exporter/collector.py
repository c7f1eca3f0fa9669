"""Asks the stores at a scrape, in parallel, and answers in time whatever they do.

A source that hangs or fails has no series until it answers again: numbers that nobody has read are not shown.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from workers.exporter.gauges import gauge

_log = structlog.get_logger(__name__)

# Prometheus waits 10 s for a scrape unless it is told otherwise.
_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Source:
    """`read` is called at a scrape if the last answer is older than `keep_seconds`, and raises if it can't answer.

    `dependency`: what its failure shows to be down, None if nothing follows from it.
    """

    name: str
    read: Callable[[], Iterable[Metric]]
    keep_seconds: float = 0.0
    dependency: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    families: tuple[Metric, ...] | None
    at: float


class PlatformCollector(Collector):
    """Safe from any thread."""

    def __init__(self, sources: Sequence[Source], *, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        self._sources = sources
        self._timeout_seconds = timeout_seconds
        self._executor = ThreadPoolExecutor(max_workers=len(sources), thread_name_prefix="exporter")
        self._lock = threading.Lock()
        self._running: dict[str, Future[_Answer]] = {}

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def collect(self) -> Iterable[Metric]:
        answers = self._answers()
        is_up: dict[str, float] = {}
        read_at: dict[str, float] = {}
        for source in self._sources:
            answer = answers.get(source.name)
            families = None if answer is None else answer.families
            if source.dependency is not None:
                is_up[source.dependency] = families is not None
            if answer is not None and families is not None:
                read_at[source.name] = answer.at
                yield from families
        yield gauge("dependency_up", is_up)
        yield gauge("exporter_read_timestamp_seconds", read_at)

    def _answers(self) -> dict[str, _Answer]:
        with self._lock:
            now = time.time()
            for source in self._sources:
                running = self._running.get(source.name)
                # One that hangs is waited for, instead of asking again.
                if running is None or (running.done() and not _is_fresh(running.result(), source, now)):
                    self._running[source.name] = self._executor.submit(_ask, source)
            asked = dict(self._running)
        wait(asked.values(), timeout=self._timeout_seconds)
        return {name: future.result() for name, future in asked.items() if future.done()}


def _is_fresh(answer: _Answer, source: Source, now: float) -> bool:
    return answer.families is not None and 0 <= now - answer.at < source.keep_seconds


def _ask(source: Source) -> _Answer:
    try:
        return _Answer(tuple(source.read()), time.time())
    except Exception as error:  # noqa: BLE001 - the scrape says it, by what is missing
        _log.warning("exporter.source_failed", source=source.name, error=str(error))
        return _Answer(None, time.time())
