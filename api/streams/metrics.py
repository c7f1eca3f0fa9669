"""Metrics of the streams of this process."""

from __future__ import annotations

import time

from prometheus_client import Counter, Gauge, Histogram

_streams = Gauge("cloudify_sse_streams", "Streams that are open.", multiprocess_mode="livesum")
_lag = Histogram(
    "cloudify_sse_lag_seconds",
    "From the writing of a log's entry until streams can send it.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
_ended = Counter("cloudify_sse_streams_ended", "Streams that ended.", ["reason"])


def count_stream_begin() -> None:
    _streams.inc()


def count_stream_end(reason: str) -> None:
    """`reason` is one of api.streams.sse.Ending."""
    _streams.dec()
    _ended.labels(reason).inc()


def observe_lag(written_at_ms: int) -> None:
    """`written_at_ms`: an entry's time in Unix milliseconds, by a worker's clock, which may be ahead of this one's."""
    _lag.observe(max(0.0, time.time() - written_at_ms / 1000))
