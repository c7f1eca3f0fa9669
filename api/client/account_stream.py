"""Follows the status changes of all deployments that the account may see."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx_sse
import msgspec

from api.client.event_stream import Interruption, StreamFollower, StreamRequest
from api.client.http import ApiClient
from schemas.deployments import DeploymentError

_PATH = "/events/stream"


class ReadyEvent(msgspec.Struct):
    """The first event: all changes from now on, or from the position asked for, will follow."""

    id: str


class ChangeEvent(msgspec.Struct, rename="camel", omit_defaults=True):
    """`ts` is Unix time in milliseconds; `url` is there when the deployment is ready, `error` when it failed, `ignored`
    says why nothing was built. `id` is the stream's position after the event."""

    deployment_id: str
    project_id: str
    status: str
    is_preview: bool
    ts: int
    stage: str | None = None
    attempt: int | None = None
    url: str | None = None
    error: DeploymentError | None = None
    ignored: str | None = None
    id: str = ""


class MissedEvent(msgspec.Struct, rename={"first": "from", "last": "to"}):
    """Changes that are no longer kept; numbers are one account's own."""

    first: int
    last: int
    reason: str
    id: str = ""


AccountNews = ReadyEvent | ChangeEvent | MissedEvent
AccountStreamEvent = AccountNews | Interruption


class AccountFollower(StreamFollower[AccountNews]):
    """Continues until the caller stops. `last_id` is the position, None before the first event of a stream that begins
    now. ReadyEvent comes once, whatever happens to the connection."""

    def __init__(
        self,
        client: ApiClient,
        *,
        after: str | None = None,
        pause: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(client, pause=pause, monotonic=monotonic)
        self.last_id = after
        self._was_ready = False

    def position(self) -> object:
        return self.last_id

    def request(self) -> StreamRequest:
        return StreamRequest(_PATH, query={} if self.last_id is None else {"after": self.last_id})

    def decode(self, message: httpx_sse.ServerSentEvent) -> Iterator[AccountNews]:
        news: AccountNews
        match message.event:
            case "ready":
                news = ReadyEvent(id=message.id)
            case "status":
                news = msgspec.json.decode(message.data, type=ChangeEvent)
                news.id = message.id
            case "gap":
                news = msgspec.json.decode(message.data, type=MissedEvent)
                news.id = message.id
            case _:
                return
        self.last_id = message.id or self.last_id
        if isinstance(news, ReadyEvent) and self._was_ready:
            return
        self._was_ready = True
        yield news
