"""One HTTP exchange with the API: envelope decoding, errors, and retries of what may be repeated."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from api.client.credentials import is_loopback
from api.client.errors import ApiError, Unreachable
from schemas.envelope import Failure, Success
from shared.backoff import Backoff

T = TypeVar("T")
QueryValue = str | int | bool

ATTEMPTS = 5
_RETRY = Backoff(0.3, 5.0)
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_LONGEST_WAIT_SECONDS = 20.0
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)


class Transport:
    """Not for several threads at once. `pause` waits that many seconds; `http_transport` replaces the network."""

    def __init__(
        self,
        base_url: str,
        token: str | None,
        *,
        http_transport: httpx.BaseTransport | None = None,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_url = base_url
        self._pause = pause
        headers = {"Accept": "application/json", "User-Agent": "cloudify-cli"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self.http = httpx.Client(
            base_url=base_url + "/api",
            headers=headers,
            timeout=_TIMEOUT,
            transport=http_transport,
            # A proxy from the environment can't reach this machine's loopback.
            trust_env=not is_loopback(base_url),
        )

    def close(self) -> None:
        self.http.close()

    def request(
        self,
        method: str,
        path: str,
        result: type[T],
        *,
        query: Mapping[str, QueryValue | None] | None = None,
        body: msgspec.Struct | None = None,
        idempotency_key: str | None = None,
        authorization: str | None = None,
        cookie: str | None = None,
    ) -> Success[T]:
        """`path` starts after /api; `authorization` replaces the client's own header; `cookie` is name=value.

        Repeats GET, PUT, DELETE, and anything with an idempotency key, when the connection fails or the API is busy
        or away, at most ATTEMPTS times. Raises ApiError and Unreachable.
        """
        response = self._exchange(
            self._build(method, path, query, body, idempotency_key, authorization, cookie),
            is_repeatable=method in _REPEATABLE or idempotency_key is not None,
        )
        try:
            if response.status_code == 204:
                return Success(data=msgspec.convert(None, type=result))
            return msgspec.json.decode(response.content, type=Success[result])
        except msgspec.DecodeError as error:
            raise self._foreign(response) from error

    def _build(
        self,
        method: str,
        path: str,
        query: Mapping[str, QueryValue | None] | None,
        body: msgspec.Struct | None,
        idempotency_key: str | None,
        authorization: str | None,
        cookie: str | None,
    ) -> httpx.Request:
        headers: dict[str, str] = {}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        if authorization is not None:
            headers["Authorization"] = authorization
        if cookie is not None:
            headers["Cookie"] = cookie
        return self.http.build_request(
            method,
            path,
            params={name: value for name, value in (query or {}).items() if value is not None},
            content=None if body is None else msgspec.json.encode(body),
            headers=headers,
        )

    def _exchange(self, request: httpx.Request, *, is_repeatable: bool) -> httpx.Response:
        attempt = 1
        while True:
            try:
                response = self.http.send(request)
            except httpx.RequestError as error:
                # Nothing was sent when the connection wasn't made, so even a bare POST may be repeated.
                was_not_sent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if attempt >= ATTEMPTS or not (is_repeatable or was_not_sent):
                    raise unreachable(self.base_url, error) from error
                wait = _RETRY.delay_seconds(attempt)
            else:
                if response.is_success:
                    return response
                error = self.error_of(response)
                wait = retry_after_seconds(response)
                wait = _RETRY.delay_seconds(attempt) if wait is None else wait
                if (
                    attempt >= ATTEMPTS
                    or not self._may_repeat(response, error, is_repeatable=is_repeatable)
                    or wait > _LONGEST_WAIT_SECONDS
                ):
                    raise error
            self._pause(wait)
            attempt += 1

    @staticmethod
    def _may_repeat(response: httpx.Response, error: ApiError | Unreachable, *, is_repeatable: bool) -> bool:
        if isinstance(error, ApiError) and error.code == "LOGIN_THROTTLED":
            return False
        # The first request with this key is still being answered; the repeat gets its answer.
        is_in_progress = isinstance(error, ApiError) and error.code == "IDEMPOTENCY_IN_PROGRESS"
        return is_repeatable and (response.status_code in _RETRIED_STATUSES or is_in_progress)

    def error_of(self, response: httpx.Response) -> ApiError | Unreachable:
        """The error that a response which isn't a success carries; its body must have been read."""
        try:
            failure = msgspec.json.decode(response.content, type=Failure)
        except msgspec.DecodeError:
            if response.status_code in _RETRIED_STATUSES:
                return Unreachable(
                    f"The API at {self.base_url} is not available (HTTP {response.status_code}).",
                    "Wait a moment and run the command again.",
                )
            return self._foreign(response)
        body = failure.error
        return ApiError(body.code, body.message, response.status_code, body.request_id, body.details)

    def _foreign(self, response: httpx.Response) -> Unreachable:
        return Unreachable(
            f"What answers at {self.base_url} doesn't speak this API (HTTP {response.status_code}).",
            "Check the address: --api-url, CLOUDIFY_API_URL, or the one stored by `cloudify login`.",
        )


def unreachable(base_url: str, error: httpx.RequestError) -> Unreachable:
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.TimeoutException):
        reason = "it didn't answer in time"
    advice = f"Check that {urlsplit(base_url).netloc} is the right address and can be reached from here."
    if is_loopback(base_url):
        advice = "Start the platform with `make run`, or name another API with --api-url or CLOUDIFY_API_URL."
    return Unreachable(f"The API at {base_url} can't be reached: {reason}.", advice)


def retry_after_seconds(response: httpx.Response) -> float | None:
    """RFC 9110, section 10.2.3: seconds or a date. None without a usable header."""
    value = str(response.headers.get("Retry-After", ""))
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
