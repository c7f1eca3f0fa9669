"""Metrics of the streams of this process."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

_streams = Gauge("cloudify_sse_streams", "Streams that are open.", multiprocess_mode="livesum")
_ended = Counter("cloudify_sse_streams_ended", "Streams that ended.", ["reason"])


def count_stream_begin() -> None:
    _streams.inc()


def count_stream_end(reason: str) -> None:
    """`reason` is one of api.streams.sse.Ending."""
    _streams.dec()
    _ended.labels(reason).inc()
