"""Follows a deployment's log.

The server numbers the entries of a log without gaps and sends them in order. This side drops what it has passed on
already, so a reader gets each entry exactly once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx_sse
import msgspec

from api.client.event_stream import Interruption, ServerReconnect, StreamFollower, StreamRequest
from api.client.http import ApiClient
from schemas.deployments import DeploymentError, LogLineResource

FINISHED = frozenset({"ready", "failed", "cancelled"})


class LinesEvent(msgspec.Struct):
    """Lines that came together, in order; at most 100."""

    lines: list[LogLineResource]


class StatusEvent(msgspec.Struct, rename="camel"):
    """`queue_position` counts from 1 while the deployment waits."""

    seq: int
    status: str
    stage: str | None = None
    attempt: int | None = None
    queue_position: int | None = None


class GapEvent(msgspec.Struct, rename={"first": "from", "last": "to"}):
    """Entries `first` to `last` are gone; `reason` is retention or truncated."""

    first: int
    last: int
    reason: str


class EndEvent(msgspec.Struct):
    """`status` is ready, failed or cancelled; `seq` None when the log had been read to its end before."""

    status: str
    seq: int | None = None
    url: str | None = None
    error: DeploymentError | None = None
    ignored: str | None = None


LogNews = LinesEvent | StatusEvent | GapEvent | EndEvent
LogEvent = LogNews | Interruption


class LogFollower(StreamFollower[LogNews]):
    """`last_seq` is the number of the last entry passed on, 0 before the first."""

    name = "log stream"

    def __init__(
        self,
        client: ApiClient,
        deployment_id: str,
        *,
        after: int = 0,
        tail: int | None = None,
        pause: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(client, pause=pause, monotonic=monotonic)
        self._deployment_id = deployment_id
        self.last_seq = after
        self._tail = tail

    def position(self) -> object:
        return self.last_seq

    def request(self) -> StreamRequest:
        path = self._client.log_stream_path(self._deployment_id)
        if self.last_seq > 0:
            return StreamRequest(path, headers={"Last-Event-ID": str(self.last_seq)})
        return StreamRequest(path, query={} if self._tail is None else {"tail": str(self._tail)})

    def is_end(self, event: LogNews) -> bool:
        return isinstance(event, EndEvent)

    def decode(self, message: httpx_sse.ServerSentEvent) -> Iterator[LogNews]:
        match message.event:
            case "log":
                received = msgspec.json.decode(message.data, type=LinesEvent).lines
                fresh = [line for line in received if line.seq > self.last_seq]
                if fresh:
                    self.last_seq = fresh[-1].seq
                    yield LinesEvent(lines=fresh)
            case "status":
                status = msgspec.json.decode(message.data, type=StatusEvent)
                # A place in the queue is no entry of the log: it comes with the number of the last one.
                if status.seq > self.last_seq or status.queue_position is not None:
                    self.last_seq = max(self.last_seq, status.seq)
                    yield status
            case "gap":
                gap = msgspec.json.decode(message.data, type=GapEvent)
                if gap.last > self.last_seq:
                    self.last_seq = gap.last
                    yield gap
            case "end":
                end = msgspec.json.decode(message.data, type=EndEvent)
                self.last_seq = max(self.last_seq, end.seq or 0)
                yield end
            case _:
                return

    def at_end(self) -> Iterator[LogNews]:
        """Everything was read. The deployment itself says how it ended."""
        deployment = self._client.deployment(self._deployment_id)
        if deployment.status not in FINISHED:
            raise ServerReconnect("the log isn't closed yet", self._retry_seconds)
        yield EndEvent(status=deployment.status, url=deployment.url, error=deployment.error, ignored=deployment.ignored)
