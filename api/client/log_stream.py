"""Follows a deployment's log over server-sent events, across every kind of interruption.

The server numbers the entries of a log without gaps and sends them in order. This side remembers the last number it
has passed on, asks for what comes after it whenever the connection is gone, and drops what it has seen already, so a
reader gets each entry exactly once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import httpx_sse
import msgspec

from api.client.errors import ApiError, ClientError, Unreachable
from api.client.http import ApiClient
from api.client.transport import backoff_seconds, retry_after_seconds, unreachable
from schemas.resources import DeploymentError, LogLineResource

FINISHED = frozenset({"ready", "failed", "cancelled"})

# The server sends a comment every 15 s; three missing ones are a dead connection.
_TIMEOUT = httpx.Timeout(10.0, read=45.0)
_FIRST_CONNECTION_SECONDS = 10.0
_GIVE_UP_SECONDS = 600.0
_LONGEST_PAUSE_SECONDS = 15.0


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


@dataclass(frozen=True, slots=True)
class Interruption:
    """The stream broke off and is asked for again in `pause_seconds`; `is_problem` unless the server asked for it."""

    reason: str
    pause_seconds: float
    is_problem: bool


LogEvent = LinesEvent | StatusEvent | GapEvent | EndEvent | Interruption


class _Reconnect(msgspec.Struct):
    reason: str


class LogFollower:
    """Iterate `events()` once. `last_seq` is the number of the last entry passed on, 0 before the first.

    `pause` waits that many seconds, `monotonic` is a clock in seconds: both replaceable in tests.
    """

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
        self._client = client
        self._deployment_id = deployment_id
        self.last_seq = after
        self._tail = tail
        self._pause = pause
        self._monotonic = monotonic
        self._retry_seconds = 1.0
        self._was_connected = False
        self._progress_at = monotonic()

    def events(self) -> Iterator[LogEvent]:
        """Ends after an EndEvent. Raises ApiError for what a repeat won't mend, Unreachable after a long silence."""
        failures = 0
        while True:
            seq_before = self.last_seq
            wait: float | None = None
            problem: ClientError | None = None
            is_problem = True
            try:
                for event in self._connection():
                    yield event
                    if isinstance(event, EndEvent):
                        return
                reason = "the stream ended early"
            except _PoliteEnd as end:
                reason, wait, is_problem = end.reason, end.pause_seconds, False
            except httpx.RequestError as error:
                problem = unreachable(self._client.transport.base_url, error)
                reason = _reason(error)
            except _Busy as busy:
                problem, wait = busy.error, busy.retry_after_seconds
                reason = busy.error.message
            now = self._monotonic()
            if self.last_seq > seq_before:
                failures, self._progress_at = 0, now
            failures += 1
            if problem is None:
                # A stream that opens and closes again is alive, however little it says.
                self._progress_at = now
            elif now - self._progress_at > (_GIVE_UP_SECONDS if self._was_connected else _FIRST_CONNECTION_SECONDS):
                raise problem
            if wait is None:
                wait = backoff_seconds(failures, base=self._retry_seconds, longest=_LONGEST_PAUSE_SECONDS)
            wait = min(wait, _LONGEST_PAUSE_SECONDS * 4)
            yield Interruption(reason, wait, is_problem)
            self._pause(wait)

    def _connection(self) -> Iterator[LogEvent]:
        """The new events of one connection; returns when the server closes it."""
        headers: dict[str, str] = {}
        query: dict[str, str] = {}
        if self.last_seq > 0:
            headers["Last-Event-ID"] = str(self.last_seq)
        elif self._tail is not None:
            query["tail"] = str(self._tail)
        path = self._client.log_stream_path(self._deployment_id)
        http = self._client.transport.http
        with httpx_sse.connect_sse(http, "GET", path, headers=headers, params=query, timeout=_TIMEOUT) as source:
            if source.response.status_code == 204:
                yield self._end_of_finished()
                return
            self._refuse_errors(source.response)
            self._was_connected = True
            for message in source.iter_sse():
                if message.retry is not None:
                    self._retry_seconds = min(max(message.retry / 1000, 0.1), _LONGEST_PAUSE_SECONDS)
                yield from self._decode(message)
                if message.event == "end":
                    return

    def _decode(self, message: httpx_sse.ServerSentEvent) -> Iterator[LogEvent]:
        """What the message brings that hasn't been passed on; unknown kinds of events are for newer clients."""
        try:
            match message.event:
                case "log":
                    received = msgspec.json.decode(message.data, type=LinesEvent).lines
                    fresh = [line for line in received if line.seq > self.last_seq]
                    if fresh:
                        self.last_seq = fresh[-1].seq
                        yield LinesEvent(lines=fresh)
                case "status":
                    status = msgspec.json.decode(message.data, type=StatusEvent)
                    if status.seq > self.last_seq:
                        self.last_seq = status.seq
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
                case "reconnect":
                    reason = msgspec.json.decode(message.data, type=_Reconnect).reason
                    # The server chose the moment, so one short pause is enough; shutdowns need a little longer.
                    raise _PoliteEnd(reason, self._retry_seconds if reason == "shutdown" else 0.2)
                case _:
                    return
        except msgspec.DecodeError as error:
            raise Unreachable(
                f"The log stream has an event that can't be read: {error}.", "Update the cloudify command."
            ) from error

    def _refuse_errors(self, response: httpx.Response) -> None:
        if response.is_success:
            if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                response.read()
                raise Unreachable(
                    "The API's address answers, but not with a log stream.", "Check the address given with --api-url."
                )
            return
        response.read()
        error = self._client.transport.error_of(response)
        if response.status_code == 429 or response.status_code >= 500:
            raise _Busy(error, retry_after_seconds(response))
        raise error

    def _end_of_finished(self) -> EndEvent:
        """204: everything was read. The deployment itself says how it ended."""
        deployment = self._client.deployment(self._deployment_id)
        if deployment.status not in FINISHED:
            raise _PoliteEnd("the log isn't closed yet", self._retry_seconds)
        return EndEvent(status=deployment.status, url=deployment.url, error=deployment.error)


def _reason(error: httpx.RequestError) -> str:
    match error:
        case httpx.TimeoutException():
            return "nothing was heard of it for too long"
        case httpx.ConnectError():
            return "the API doesn't answer"
        case _:
            return "the API or something on the way closed it"


class _PoliteEnd(Exception):
    """The server asked for a new connection."""

    def __init__(self, reason: str, pause_seconds: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pause_seconds = pause_seconds


class _Busy(Exception):
    """An answer that a repeat may mend."""

    def __init__(self, error: ApiError | Unreachable, retry_after_seconds: float | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_seconds = retry_after_seconds
