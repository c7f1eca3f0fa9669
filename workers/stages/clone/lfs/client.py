"""The client of a Git LFS server: asks for objects in batches, downloads and verifies them.

https://github.com/git-lfs/git-lfs/blob/main/docs/api/batch.md and basic-transfers.md. The server is untrusted: it may
name no address inside, gets credentials only if it is the host they are for, and what it sends is bounded by what the
pointers say.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import SplitResult, urljoin, urlsplit

from shared.errors import FailureCode, PlatformError, StageFailure
from shared.projects.repository_url import RepositoryUrl
from workers.stages.clone.access import RepositoryAccess, authorization
from workers.stages.clone.addresses import parse_for_clone
from workers.stages.clone.git.failures import (
    LFS_SETTINGS,
    PAUSES,
    host_in_trouble,
    proxy_failure,
    unreachable,
    wait_after,
)
from workers.stages.clone.git.http_answers import HttpAnswer
from workers.stages.clone.lfs.connections import LfsConnections

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

_BATCH = 100
_MAXIMUM_ANSWER = 4 << 20
_MAXIMUM_REDIRECTS = 3
_MEDIA_TYPE = "application/vnd.git-lfs+json"
# Whatever the server asks for, these are the client's own.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "accept-encoding"})
_REDIRECTS = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class LfsObject:
    """`oid` is the content's SHA-256, `size` its bytes."""

    oid: str
    size: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask. `headers` authenticate, and go to no other host."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Target:
    """An accepted address of the server. `public` has neither credentials nor query."""

    public: RepositoryUrl
    parts: SplitResult

    @property
    def request_path(self) -> str:
        return (self.parts.path or "/") + (f"?{self.parts.query}" if self.parts.query else "")


class _InTrouble(Exception):
    def __init__(self, host: str, answer: HttpAnswer) -> None:
        super().__init__(host)
        self.host = host
        self.answer = answer


class LfsClient:
    """For one repository's objects; not shared between threads. A context manager: leaving it ends the connections."""

    def __init__(
        self,
        check_time: Callable[[], None],
        cancelled: threading.Event,
        access: RepositoryAccess,
        *,
        is_last_attempt: bool,
        certificates: str | None = None,
    ) -> None:
        """`check_time` raises when there is no time left, and ends what is under way. It is asked often."""
        self._check_time = check_time
        self._cancelled = cancelled
        self._access = access
        self._is_last_attempt = is_last_attempt
        self._connections = LfsConnections(check_time, cancelled, access, certificates)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connections.close()

    def fetch(self, endpoint: Endpoint, wanted: Mapping[LfsObject, str], directory: Path) -> None:
        """Puts each object into `directory` under its oid. `wanted` gives a path to name it by. Raises StageFailure,
        PlatformError for what may pass, Cancelled."""
        objects = list(wanted)
        for start in range(0, len(objects), _BATCH):
            batch = objects[start : start + _BATCH]
            actions = self._patiently(partial(self._ask, endpoint, batch, wanted))
            for thing in batch:
                self._patiently(partial(self._download, endpoint, thing, actions[thing], wanted[thing], directory))

    def _patiently(self, action: Callable[[], T]) -> T:
        """Tries again after answers that may pass, when the server says. Raises StageFailure when it is no better."""
        for pause in (*PAUSES, None):
            try:
                return action()
            except _InTrouble as error:
                wait = None if pause is None else wait_after(error.answer, pause)
                if wait is None:
                    raise host_in_trouble(f"The Git LFS server {error.host}", error.answer) from error
                self._cancelled.wait(wait)
                self._check_time()
        raise AssertionError("the last try returns or raises")

    def _ask(
        self, endpoint: Endpoint, batch: Sequence[LfsObject], names: Mapping[LfsObject, str]
    ) -> dict[LfsObject, dict[str, Any]]:
        target = self._target(endpoint.url.rstrip("/") + "/objects/batch")
        body = {
            "operation": "download",
            "transfers": ["basic"],
            "objects": [{"oid": thing.oid, "size": thing.size} for thing in batch],
            "hash_algo": "sha256",
        }
        headers = {**endpoint.headers, "Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
        with self._answer("POST", target, headers, json.dumps(body).encode()) as response:
            if response.status_code != 200:
                raise self._failure(response, target, bool(endpoint.headers))
            answer = _read_answer(self._chunks(response, target), target, self._check_time)
        if answer.get("transfer", "basic") != "basic":
            raise _unusable(target, "wants a kind of transfer that it wasn't offered")
        given = answer.get("objects")
        listed = [entry for entry in given if isinstance(entry, dict)] if isinstance(given, list) else []
        by_oid = {entry.get("oid"): entry for entry in listed}
        return {thing: _download_action(by_oid.get(thing.oid), names[thing], target) for thing in batch}

    def _download(
        self, endpoint: Endpoint, thing: LfsObject, action: Mapping[str, Any], path: str, directory: Path
    ) -> None:
        target = self._target(str(action["href"]))
        headers = {str(name): str(value) for name, value in (action.get("header") or {}).items()}
        if not any(name.lower() == "authorization" for name in headers):
            headers |= self._own_headers(endpoint, target)
        for _ in range(_MAXIMUM_REDIRECTS + 1):
            with self._answer("GET", target, headers) as response:
                if response.status_code not in _REDIRECTS:
                    if response.status_code == 404:
                        raise _missing(path, target)
                    if response.status_code != 200:
                        raise self._failure(response, target, "Authorization" in headers)
                    chunks = self._chunks(response, target)
                    return verified_copy(chunks, thing, path, directory, self._check_time)
                location = response.headers.get("Location", "")
            former, target = target, self._target(location, base=target.parts.geturl())
            if former.public.origin != target.public.origin:
                headers = {}
        raise _unusable(target, "redirects again and again")

    def _own_headers(self, endpoint: Endpoint, target: _Target) -> Mapping[str, str]:
        if target.public.origin == self._target(endpoint.url).public.origin:
            return endpoint.headers
        own = authorization(self._access.authorise(target.public, LFS_SETTINGS))
        return {} if own is None else {"Authorization": own}

    def _target(self, url: str, base: str = "") -> _Target:
        """Raises StageFailure URL_FORBIDDEN for what isn't http(s), and where the policy refuses it."""
        try:
            parts = urlsplit(urljoin(base, url) if base else url)
            bare = parts._replace(query="", fragment="").geturl()
            public = parse_for_clone(bare, self._access.policy, name="url", needs_path=False)
            if not public.is_http:
                raise StageFailure(FailureCode.URL_FORBIDDEN, f"{public.scheme}:// is refused there.")
            if not all("!" <= character <= "~" for character in parts.query):
                raise ValueError
        except StageFailure as failure:
            raise StageFailure(failure.code, f"The Git LFS server names an address: {failure.message}") from failure
        except ValueError:
            raise StageFailure(FailureCode.URL_FORBIDDEN, "The Git LFS server names an address that is none.") from None
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
        given = {name: value for name, value in headers.items() if name.lower() not in _OWN_HEADERS}
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
            raise _unusable(target, "gives headers or an address that HTTP doesn't allow") from error
        except (httpx.TransportError, OSError) as error:
            raise self._broken(target, type(error).__name__) from error
        try:
            yield response
        finally:
            response.close()

    def _chunks(self, response: httpx.Response, target: _Target) -> Iterator[bytes]:
        import httpx

        try:
            yield from response.iter_raw()
        except httpx.TransportError as error:
            raise self._broken(target, type(error).__name__) from error

    def _broken(self, target: _Target, reason: str) -> Exception:
        # Whoever cancelled while the server said nothing is told that.
        self._check_time()
        failure = self._access.proxy.find_failure(target.public) if self._access.proxy is not None else None
        if failure is not None:
            return proxy_failure(target.public, failure, is_last_attempt=self._is_last_attempt)
        if self._is_last_attempt:
            return unreachable(target.public, f"the Git LFS server broke off ({reason})")
        return PlatformError(f"Contact with the Git LFS server {target.public.host} broke off ({reason}).")

    def _failure(self, response: httpx.Response, target: _Target, is_authenticated: bool) -> Exception:
        status = response.status_code
        answer = HttpAnswer(status, {name.lower(): value[:1000] for name, value in response.headers.items()})
        if answer.is_passing:
            return _InTrouble(target.public.host, answer)
        if status in (507, 509):
            return _unusable(target, f"is over its quota (status {status}); its owner raises it, or removes files")
        if status >= 500:
            return _unusable(target, f"doesn't do what it is asked (status {status})")
        if status in (401, 403):
            if not is_authenticated:
                return self._access.refusal(target.public, LFS_SETTINGS)
            return StageFailure(
                FailureCode.REPOSITORY_AUTHENTICATION,
                f"{target.public.host} refuses the project's credentials for Git LFS. Set a token that may read it: "
                "`cloudify credentials set`.",
            )
        if status in _REDIRECTS:
            return _unusable(target, "redirects elsewhere; name its present address in .lfsconfig")
        if status == 404:
            return _unusable(target, "has no Git LFS there; name the server in .lfsconfig")
        return _unusable(target, f"refuses with status {status}")


def verified_copy(
    chunks: Iterable[bytes], thing: LfsObject, path: str, directory: Path, check_time: Callable[[], None]
) -> None:
    """Writes the object to `directory`/oid. Raises StageFailure unless its size and digest are the pointer's."""
    digest, size = hashlib.sha256(), 0
    try:
        with (directory / thing.oid).open("wb") as file:
            for chunk in chunks:
                check_time()
                size += len(chunk)
                if size > thing.size:
                    break
                digest.update(chunk)
                file.write(chunk)
    except OSError as error:
        raise PlatformError(f"A file from Git LFS could not be written: {error.strerror}") from error
    if size != thing.size or digest.hexdigest() != thing.oid:
        raise StageFailure(
            FailureCode.REPOSITORY_LFS_MISSING,
            f"{path}: the Git LFS server sends something else than its pointer names ({thing.oid[:12]}, {thing.size} "
            "bytes). Push the file again: `git lfs push --all`.",
        )


def _read_answer(chunks: Iterable[bytes], target: _Target, check_time: Callable[[], None]) -> dict[str, Any]:
    data = bytearray()
    for chunk in chunks:
        check_time()
        data += chunk
        if len(data) > _MAXIMUM_ANSWER:
            raise _unusable(target, "answers without end")
    try:
        answer = json.loads(bytes(data))
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise _unusable(target, "doesn't answer as one")
    return answer


def _download_action(entry: Mapping[str, Any] | None, path: str, target: _Target) -> dict[str, Any]:
    if entry is None or entry.get("error"):
        raise _missing(path, target)
    actions = entry.get("actions")
    download = actions.get("download") if isinstance(actions, dict) else None
    if not isinstance(download, dict) or not isinstance(download.get("href"), str):
        raise _missing(path, target)
    if not isinstance(download.get("header") or {}, dict):
        raise _unusable(target, "doesn't answer as one")
    return download


def _missing(path: str, target: _Target) -> StageFailure:
    return StageFailure(
        FailureCode.REPOSITORY_LFS_MISSING,
        f"{path}: the Git LFS server {target.public.host} doesn't have its content. Push it: `git lfs push --all`.",
    )


def _unusable(target: _Target, problem: str) -> StageFailure:
    return StageFailure(FailureCode.REPOSITORY_LFS_MISSING, f"The Git LFS server {target.public.host} {problem}.")
