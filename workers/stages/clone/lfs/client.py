"""The client of a Git LFS server: requests objects in batches, downloads and verifies them.

https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md and basic-transfers.md. The server is untrusted: it can't
redirect to private addresses, gets credentials only if they are for its host, and a download is limited to the size
that the pointer names.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

from shared.errors import FailureCode, PlatformError, StageFailure
from shared.projects.repository_url import RepositoryUrl
from workers.stages.clone.access import authorization
from workers.stages.clone.addresses import parse_for_clone
from workers.stages.clone.git.failures import (
    LFS_SETTINGS,
    MAXIMUM_TRIES,
    RETRY,
    host_failing,
    proxy_failure,
    unreachable,
    wait_after,
)
from workers.stages.clone.git.http_answers import HttpAnswer
from workers.stages.clone.lfs.batch import Download, read_answer, server_unusable, write_request
from workers.stages.clone.lfs.connections import LfsConnections
from workers.stages.clone.lfs.objects import LfsObject, object_missing, verified_copy
from workers.stages.clone.session import CloneSession

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

_BATCH = 100
_MAXIMUM_ANSWER = 4 << 20
_MAXIMUM_REDIRECTS = 3
_MEDIA_TYPE = "application/vnd.git-lfs+json"
# Set by the client; the server can't change them.
_RESERVED_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's address. `headers` authenticate, and are sent to no other host."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Target:
    """An address that passed the checks. `public` has neither credentials nor query."""

    public: RepositoryUrl
    parts: SplitResult

    @property
    def host(self) -> str:
        return self.public.host

    @property
    def request_path(self) -> str:
        return (self.parts.path or "/") + (f"?{self.parts.query}" if self.parts.query else "")


class _TransientAnswer(Exception):
    def __init__(self, host: str, answer: HttpAnswer) -> None:
        super().__init__(host)
        self.host = host
        self.answer = answer


class LfsClient:
    """Fetches one repository's objects. Not shared between threads. Leaving the context closes the connections."""

    def __init__(self, session: CloneSession) -> None:
        self._session = session
        self._check_time = session.deadline.check
        self._connections = LfsConnections(session.deadline, session.network, session.git.certificates)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connections.close()

    def fetch(self, endpoint: Endpoint, wanted: Mapping[LfsObject, str], directory: Path) -> None:
        """Writes each object to `directory`/oid. `wanted`: a path of each, for messages.

        Raises StageFailure, PlatformError for transient failures, and Cancelled.
        """
        objects = list(wanted)
        for start in range(0, len(objects), _BATCH):
            batch = {item: wanted[item] for item in objects[start : start + _BATCH]}
            downloads = self._retrying(partial(self._ask, endpoint, batch))
            for item, path in batch.items():
                self._retrying(partial(self._download, endpoint, item, downloads[item], path, directory))

    def _retrying(self, action: Callable[[], T]) -> T:
        """Retries after transient answers, with the server's delay. Raises StageFailure after the last try."""
        failures = 0
        while True:
            try:
                return action()
            except _TransientAnswer as error:
                failures += 1
                wait = wait_after(error.answer, RETRY.delay_seconds(failures)) if failures < MAXIMUM_TRIES else None
                if wait is None:
                    raise host_failing(f"The Git LFS server {error.host}", error.answer) from error
                self._session.deadline.pause(wait)

    def _ask(self, endpoint: Endpoint, batch: Mapping[LfsObject, str]) -> dict[LfsObject, Download]:
        target = self._target(endpoint.url.rstrip("/") + "/objects/batch")
        headers = {**endpoint.headers, "Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
        with self._answer("POST", target, headers, write_request(batch)) as response:
            if response.status_code != 200:
                raise self._failure(response, target, bool(endpoint.headers))
            data = bytearray()
            for chunk in self._chunks(response, target):
                self._check_time()
                data += chunk
                if len(data) > _MAXIMUM_ANSWER:
                    raise server_unusable(target.host, f"sends a response of more than {_MAXIMUM_ANSWER >> 20} MiB")
        return read_answer(bytes(data), target.host, batch)

    def _download(self, endpoint: Endpoint, item: LfsObject, download: Download, path: str, directory: Path) -> None:
        target = self._target(download.url)
        headers = download.headers
        if not any(name.lower() == "authorization" for name in headers):
            headers = {**headers, **self._credentials_for(endpoint, target)}
        for _ in range(_MAXIMUM_REDIRECTS + 1):
            with self._answer("GET", target, headers) as response:
                if response.status_code not in _REDIRECTS:
                    if response.status_code == 404:
                        raise object_missing(path, target.host)
                    if response.status_code != 200:
                        raise self._failure(response, target, "Authorization" in headers)
                    chunks = self._chunks(response, target)
                    return verified_copy(chunks, item, path, directory, self._session.deadline)
                location = response.headers.get("Location", "")
            former, target = target, self._target(location, base=target.parts.geturl())
            if former.public.origin != target.public.origin:
                headers = {}
        raise server_unusable(target.host, "redirects too often")

    def _credentials_for(self, endpoint: Endpoint, target: _Target) -> Mapping[str, str]:
        if target.public.origin == self._target(endpoint.url).public.origin:
            return endpoint.headers
        own = authorization(self._session.access.authorise(target.public, LFS_SETTINGS))
        return {} if own is None else {"Authorization": own}

    def _target(self, url: str, base: str = "") -> _Target:
        """Checks an address. Raises StageFailure URL_FORBIDDEN if it isn't http(s) or the policy refuses it."""
        try:
            parts = urlsplit(urljoin(base, url) if base else url)
            bare = parts._replace(query="", fragment="").geturl()
            public = parse_for_clone(bare, self._session.network.policy, name="url", needs_path=False)
            if not public.is_http:
                raise StageFailure(FailureCode.URL_FORBIDDEN, f"{public.scheme}:// is refused there.")
            if not all("!" <= character <= "~" for character in parts.query):
                raise ValueError
        except StageFailure as failure:
            raise StageFailure(failure.code, f"The Git LFS server names an address: {failure.message}") from failure
        except ValueError:
            raise StageFailure(FailureCode.URL_FORBIDDEN, "The Git LFS server names an invalid address.") from None
        return _Target(public, parts)

    @contextmanager
    def _answer(
        self, method: str, target: _Target, headers: Mapping[str, str], content: bytes | None = None
    ) -> Generator[httpx.Response]:
        import httpx

        self._check_time()
        url = target.public
        address, client = self._connections.find(url)
        host = f"[{url.host}]" if ":" in url.host else url.host
        shown = f"[{address}]" if ":" in address else address
        given = {name: value for name, value in headers.items() if name.lower() not in _RESERVED_HEADERS}
        try:
            request = client.build_request(
                method,
                f"{url.scheme}://{shown}:{url.port}{target.request_path}",
                headers={"Accept": "*/*", **given, "Host": f"{host}:{url.port}", "Accept-Encoding": "identity"},
                content=content,
                extensions={"sni_hostname": url.host},
            )
            response = client.send(request, stream=True)
        except (httpx.LocalProtocolError, httpx.InvalidURL, ValueError, TypeError) as error:
            raise server_unusable(target.host, "gives headers or an address that HTTP doesn't allow") from error
        except (httpx.TransportError, OSError) as error:
            raise self._broken_off(target, type(error).__name__) from error
        try:
            yield response
        finally:
            response.close()

    def _chunks(self, response: httpx.Response, target: _Target) -> Iterator[bytes]:
        import httpx

        try:
            yield from response.iter_raw()
        except httpx.TransportError as error:
            raise self._broken_off(target, type(error).__name__) from error

    def _broken_off(self, target: _Target, reason: str) -> Exception:
        # If the clone was cancelled meanwhile, that is the reason.
        self._check_time()
        failure = self._session.network.find_proxy_failure(target.public)
        if failure is not None:
            return proxy_failure(target.public, failure, is_last_attempt=self._session.is_last_attempt)
        if self._session.is_last_attempt:
            return unreachable(target.public, f"the Git LFS server broke off ({reason})")
        return PlatformError(f"Contact with the Git LFS server {target.host} broke off ({reason}).")

    def _failure(self, response: httpx.Response, target: _Target, is_authenticated: bool) -> Exception:
        status = response.status_code
        answer = HttpAnswer(status, {name.lower(): value[:1000] for name, value in response.headers.items()})
        if answer.is_transient:
            return _TransientAnswer(target.host, answer)
        if status in (507, 509):
            return server_unusable(
                target.host, f"is over its quota (status {status}); its owner has to raise it or remove files"
            )
        if status >= 500:
            return server_unusable(target.host, f"fails (status {status})")
        if status in (401, 403):
            if not is_authenticated:
                return self._session.access.refusal(target.public, LFS_SETTINGS)
            return StageFailure(
                FailureCode.REPOSITORY_AUTHENTICATION,
                f"{target.host} refuses the project's credentials for Git LFS. Set a token that may read it: "
                "`cloudify credentials set`.",
            )
        if status in _REDIRECTS:
            return server_unusable(target.host, "redirects to another address; name its current one in .lfsconfig")
        if status == 404:
            return server_unusable(target.host, "has no Git LFS there; name the server in .lfsconfig")
        return server_unusable(target.host, f"refuses with status {status}")
