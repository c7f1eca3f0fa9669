"""A scrape of the exporter while sources answer, fail, hang, and come back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

from workers.exporter.collector import PlatformCollector, Source


def _family(value: float) -> list[Metric]:
    family = GaugeMetricFamily("cloudify_number", "A number.")
    family.add_metric([], value)
    return [family]


@pytest.fixture
def scraped() -> Generator[Callable[..., CollectorRegistry]]:
    collectors: list[PlatformCollector] = []

    def register(*sources: Source) -> CollectorRegistry:
        collector = PlatformCollector(sources, timeout_seconds=0.2)
        collectors.append(collector)
        registry = CollectorRegistry()
        registry.register(collector)
        return registry

    yield register
    for collector in collectors:
        collector.close()


def _up(registry: CollectorRegistry, dependency: str) -> float | None:
    return registry.get_sample_value("cloudify_dependency_up", {"dependency": dependency})


def test_what_answers_is_shown_next_to_what_fails(scraped: Callable[..., CollectorRegistry]) -> None:
    def fail() -> list[Metric]:
        raise OSError("away")

    registry = scraped(
        Source("queue", lambda: _family(3), dependency="redis"), Source("database", fail, dependency="database")
    )
    assert registry.get_sample_value("cloudify_number") == 3
    assert _up(registry, "redis") == 1
    assert _up(registry, "database") == 0
    assert registry.get_sample_value("cloudify_exporter_read_timestamp_seconds", {"source": "queue"})
    assert registry.get_sample_value("cloudify_exporter_read_timestamp_seconds", {"source": "database"}) is None


def test_a_source_that_hangs_is_asked_once_and_does_not_hold_up_the_scrape(
    scraped: Callable[..., CollectorRegistry],
) -> None:
    release = threading.Event()
    calls: list[int] = []

    def hang() -> list[Metric]:
        calls.append(1)
        release.wait(60)
        return _family(1)

    registry = scraped(Source("queue", hang, dependency="redis"))
    started = time.monotonic()
    assert _up(registry, "redis") == 0
    assert _up(registry, "redis") == 0
    assert time.monotonic() - started < 30
    assert len(calls) == 1
    release.set()
    deadline = time.monotonic() + 60
    while _up(registry, "redis") != 1:
        assert time.monotonic() < deadline


def test_figures_are_kept_for_as_long_as_they_say(scraped: Callable[..., CollectorRegistry]) -> None:
    calls = {"kept": 0, "fresh": 0}

    def count(name: str) -> list[Metric]:
        calls[name] += 1
        return []

    registry = scraped(
        Source("kept", lambda: count("kept"), keep_seconds=3600), Source("fresh", lambda: count("fresh"))
    )
    for _ in range(3):
        list(registry.collect())
    assert calls == {"kept": 1, "fresh": 3}


def test_a_failure_is_not_kept(scraped: Callable[..., CollectorRegistry]) -> None:
    answers = iter([OSError("away"), None])

    def read() -> list[Metric]:
        error = next(answers)
        if error is not None:
            raise error
        return _family(5)

    registry = scraped(Source("database", read, keep_seconds=3600, dependency="database"))
    assert _up(registry, "database") == 0
    assert _up(registry, "database") == 1
    assert registry.get_sample_value("cloudify_number") == 5
