"""Follows a stream of server-sent events across every kind of interruption.

Each event has an id that says where the stream is. This side remembers the last one it has passed on and asks for what
comes after it whenever the connection is gone, so a reader gets each event exactly once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import httpx
import httpx_sse
import msgspec

from api.client.errors import ApiError, ClientError, Unreachable
from api.client.http import ApiClient
from api.client.transport import retry_after_seconds, unreachable
from shared.backoff import Backoff

E = TypeVar("E")

# The server sends a comment every 15 s; three missing ones are a dead connection.
_TIMEOUT = httpx.Timeout(10.0, read=45.0)
_FIRST_CONNECTION_SECONDS = 10.0
_GIVE_UP_SECONDS = 600.0
_LONGEST_PAUSE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Interruption:
    """The stream broke off and is asked for again in `pause_seconds`; `is_problem` unless the server asked for it."""

    reason: str
    pause_seconds: float
    is_problem: bool


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """`path` starts after /api."""

    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


class ServerReconnect(Exception):
    """The server asked for a new connection."""

    def __init__(self, reason: str, pause_seconds: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.pause_seconds = pause_seconds


class StreamFollower(ABC, Generic[E]):
    """Iterate `events()` once. Subclasses say what is asked for, what events mean, and when the stream is at its end.

    `name` is what error messages call the stream. `pause` waits that many seconds, `monotonic` is a clock in seconds:
    both replaceable in tests.
    """

    name = "event stream"

    def __init__(self, client: ApiClient, *, pause: Callable[[float], None], monotonic: Callable[[], float]) -> None:
        self._client = client
        self._pause = pause
        self._monotonic = monotonic
        self._retry_seconds = 1.0
        self._was_connected = False
        self._progress_at = monotonic()

    @abstractmethod
    def position(self) -> object:
        """Differs after progress."""

    @abstractmethod
    def request(self) -> StreamRequest:
        """What follows the position."""

    @abstractmethod
    def decode(self, message: httpx_sse.ServerSentEvent) -> Iterator[E]:
        """What the message brings that hasn't been passed on, nothing for kinds of events that only newer clients
        know; moves the position on. May raise msgspec.DecodeError."""

    def is_end(self, event: E) -> bool:
        """Whether nothing follows the event."""
        return False

    def at_end(self) -> Iterator[E]:
        """What to pass on when the server says that nothing follows the position (204)."""
        raise ServerReconnect("nothing follows yet", self._retry_seconds)

    def events(self) -> Iterator[E | Interruption]:
        """Ends after the stream's end. Raises ApiError for what a repeat won't fix, Unreachable after a long
        silence."""
        failures = 0
        while True:
            position_before = self.position()
            wait: float | None = None
            problem: ClientError | None = None
            is_problem = True
            try:
                for event in self._connection():
                    yield event
                    if self.is_end(event):
                        return
                reason = "the stream ended early"
            except ServerReconnect as end:
                reason, wait, is_problem = end.reason, end.pause_seconds, False
            except httpx.RequestError as error:
                problem = unreachable(self._client.transport.base_url, error)
                reason = _reason(error)
            except _Busy as busy:
                problem, wait = busy.error, busy.retry_after_seconds
                reason = busy.error.message
            if self.position() != position_before:
                failures, self._progress_at = 0, self._monotonic()
            failures += 1
            self._note_silence(problem)
            if wait is None:
                wait = Backoff(self._retry_seconds, _LONGEST_PAUSE_SECONDS).delay_seconds(failures)
            wait = min(wait, _LONGEST_PAUSE_SECONDS * 4)
            yield Interruption(reason, wait, is_problem)
            self._pause(wait)

    def _note_silence(self, problem: ClientError | None) -> None:
        now = self._monotonic()
        if problem is None:
            # A stream that opens and closes again is alive, however little it says.
            self._progress_at = now
        elif now - self._progress_at > (_GIVE_UP_SECONDS if self._was_connected else _FIRST_CONNECTION_SECONDS):
            raise problem

    def _connection(self) -> Iterator[E]:
        """The new events of one connection; returns when the server closes it."""
        asked = self.request()
        http = self._client.transport.http
        with httpx_sse.connect_sse(
            http, "GET", asked.path, headers=dict(asked.headers), params=dict(asked.query), timeout=_TIMEOUT
        ) as source:
            if source.response.status_code == 204:
                yield from self.at_end()
                return
            self._refuse_errors(source.response)
            self._was_connected = True
            for message in source.iter_sse():
                if message.retry is not None:
                    self._retry_seconds = min(max(message.retry / 1000, 0.1), _LONGEST_PAUSE_SECONDS)
                for event in self._events_of(message):
                    yield event
                    if self.is_end(event):
                        return

    def _events_of(self, message: httpx_sse.ServerSentEvent) -> Iterator[E]:
        try:
            if message.event == "reconnect":
                reason = msgspec.json.decode(message.data, type=_Reconnect).reason
                # The server chose the moment, so one short pause is enough; shutdowns need a little longer.
                raise ServerReconnect(reason, self._retry_seconds if reason == "shutdown" else 0.2)
            yield from self.decode(message)
        except msgspec.DecodeError as error:
            raise Unreachable(
                f"The {self.name} has an event that can't be read: {error}.", "Update the cloudify command."
            ) from error

    def _refuse_errors(self, response: httpx.Response) -> None:
        if response.is_success:
            if not response.headers.get("Content-Type", "").startswith("text/event-stream"):
                response.read()
                raise Unreachable(
                    f"The API's address answers, but not with {_with_article(self.name)}.",
                    "Check the address given with --api-url.",
                )
            return
        response.read()
        error = self._client.transport.error_of(response)
        if response.status_code == 429 or response.status_code >= 500:
            raise _Busy(error, retry_after_seconds(response))
        raise error


class _Reconnect(msgspec.Struct):
    reason: str


class _Busy(Exception):
    """A response that a repeat may fix."""

    def __init__(self, error: ApiError | Unreachable, retry_after_seconds: float | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_seconds = retry_after_seconds


def _with_article(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _reason(error: httpx.RequestError) -> str:
    match error:
        case httpx.TimeoutException():
            return "nothing was heard of it for too long"
        case httpx.ConnectError():
            return "the API doesn't answer"
        case _:
            return "the API or something on the way closed it"
