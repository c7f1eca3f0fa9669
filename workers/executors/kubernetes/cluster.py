"""What executor and publisher ask of the API server. The client library gives the addresses and the credentials."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import urllib3
from urllib3.exceptions import HTTPError

from shared.errors import PlatformError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

_TIMEOUT = urllib3.Timeout(connect=5, read=30)
_PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 0.5
# A connection may break without a word.
_SILENCE_SECONDS = 60.0
_MERGE_PATCH = "application/merge-patch+json"
_JSON = "application/json"


class ClusterError(PlatformError):
    """The API server refused a request. `status`: HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"Kubernetes refused a request ({status}): {message}")
        self.status = status
        self.reason = message


class ClusterAway(PlatformError):
    """The API server doesn't answer."""


class Cluster:
    """One namespace of a cluster. Safe from several threads.

    Calls wait for up to `patience_seconds` for an API server that is away.
    """

    def __init__(self, namespace: str, client: ApiClient, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self.namespace = namespace
        self._client = client
        self._patience_seconds = patience_seconds

    @classmethod
    def connect(
        cls, namespace: str, configuration: Path | None, *, patience_seconds: float = _PATIENCE_SECONDS
    ) -> Cluster:
        """With a kubeconfig file, or the account of the pod that this process is in. Raises PlatformError."""
        from kubernetes import config
        from kubernetes.client import ApiClient, Configuration

        settings = Configuration()
        try:
            if configuration is not None:
                config.load_kube_config(config_file=str(configuration), client_configuration=settings)
            else:
                config.load_incluster_config(client_configuration=settings)
        except config.ConfigException as error:
            raise PlatformError(
                f"No cluster is known: {error}. Run the worker in a pod with a service account, or name a kubeconfig"
                " file in CLOUDIFY_KUBERNETES_CONFIG."
            ) from error
        settings.connection_pool_maxsize = 32
        return cls(namespace, ApiClient(settings), patience_seconds=patience_seconds)

    def close(self) -> None:
        self._client.rest_client.pool_manager.clear()

    # --- jobs ---

    def create_job(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Raises ClusterError, with status 409 if there is one of this name."""
        return self.call("POST", self._jobs(), body=job)

    def find_job(self, name: str) -> dict[str, Any] | None:
        try:
            return self.call("GET", self._jobs(name))
        except ClusterError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def jobs(self, selector: str) -> list[dict[str, Any]]:
        return self.call("GET", self._jobs(), {"labelSelector": selector})["items"]

    def resume_job(self, name: str) -> None:
        self.call("PATCH", self._jobs(name), body={"spec": {"suspend": False}}, content_type=_MERGE_PATCH)

    def delete_job(self, name: str) -> None:
        """In the foreground: it is gone when its pods are. Does nothing if there is none."""
        options = {"propagationPolicy": "Foreground"}
        try:
            self.call("DELETE", self._jobs(name), body=options)
        except ClusterError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def create_secret(self, secret: Mapping[str, Any]) -> None:
        try:
            self.call("POST", f"/api/v1/namespaces/{self.namespace}/secrets", body=secret)
        except ClusterError as error:
            # An earlier try of this call, whose answer was lost: nobody else makes one of this name.
            if error.status != HTTPStatus.CONFLICT:
                raise

    # --- pods ---

    def pods(self, selector: str) -> list[dict[str, Any]]:
        return self.call("GET", self._pods(), {"labelSelector": selector})["items"]

    def find_problem_of(self, name: str) -> str | None:
        """The words of the last warning about a Job or pod; None without one, or without the right to read events."""
        query = {"fieldSelector": f"involvedObject.name={name},type=Warning"}
        try:
            events = self.call("GET", f"/api/v1/namespaces/{self.namespace}/events", query)["items"]
        except ClusterError:
            return None
        return str(events[-1].get("message", "")) if events else None

    @contextmanager
    def watching(self, selector: str, seconds: int) -> Generator[Generator[dict[str, Any]]]:
        """Events of pods (`type` and `object`), from the present ones on, for up to `seconds`. Raises ClusterAway."""
        query = {"labelSelector": selector, "watch": "true", "timeoutSeconds": str(seconds)}
        with self._stream(self._pods(), query, seconds + 10.0) as response:
            yield (json.loads(line) for line in _lines(response) if line)

    @contextmanager
    def log(self, pod: str, container: str, since: str | None) -> Generator[LogStream]:
        """The log's lines with their times in front, followed to the container's end, or a minute without any.

        Raises ClusterError, ClusterAway.
        """
        query = {"container": container, "follow": "true", "timestamps": "true"}
        if since is not None:
            query["sinceTime"] = since
        with self._stream(f"{self._pods(pod)}/log", query, _SILENCE_SECONDS) as response:
            yield LogStream(response)

    def _jobs(self, name: str = "") -> str:
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
        return f"{path}/{name}" if name else path

    def _pods(self, name: str = "") -> str:
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return f"{path}/{name}" if name else path

    # --- requests ---

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        content_type: str = _JSON,
    ) -> dict[str, Any]:
        """The answer to one request, `path` from the root of the API server. Raises ClusterError, ClusterAway."""
        deadline = time.monotonic() + self._patience_seconds
        data = None if body is None else json.dumps(body).encode()
        while True:
            try:
                response = self._request(method, path, query, _TIMEOUT, data, content_type)
                text = response.data
                if response.status < 300:
                    return json.loads(text)
                if response.status < 500 and response.status != HTTPStatus.TOO_MANY_REQUESTS:
                    raise ClusterError(response.status, _message(text))
                problem = f"it answers {response.status}: {_message(text)}"
            except (HTTPError, OSError) as error:
                problem = type(error).__name__
            if time.monotonic() > deadline:
                raise ClusterAway(f"The API server of Kubernetes does not answer: {problem}.")
            time.sleep(_PAUSE_SECONDS)

    @contextmanager
    def _stream(self, path: str, query: Mapping[str, str], read_seconds: float) -> Generator[Any]:
        timeout = urllib3.Timeout(connect=5, read=read_seconds)
        try:
            response = self._request("GET", path, query, timeout, None, _JSON, is_stream=True)
        except (HTTPError, OSError) as error:
            raise ClusterAway(f"The API server of Kubernetes does not answer: {type(error).__name__}.") from error
        try:
            if response.status >= 300:
                raise ClusterError(response.status, _message(response.read(2000)))
            yield response
        except (HTTPError, OSError) as error:
            raise ClusterAway(f"The connection to the API server broke: {type(error).__name__}.") from error
        finally:
            response.close()
            response.release_conn()

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        timeout: urllib3.Timeout,
        body: bytes | None,
        content_type: str,
        *,
        is_stream: bool = False,
    ) -> Any:
        settings = self._client.configuration
        # Also renews the token of a service account.
        token = settings.auth_settings().get("BearerToken", {}).get("value")
        headers = {"Accept": _JSON, "Content-Type": content_type, "User-Agent": "cloudify"}
        if token:
            headers["Authorization"] = token
        url = f"{settings.host}{path}" + (f"?{urlencode(query)}" if query else "")
        return self._client.rest_client.pool_manager.request(
            method,
            url,
            body=body,
            headers=headers,
            timeout=timeout,
            preload_content=not is_stream,
            retries=False,
        )


class LogStream:
    """Lines of a log; `stop` ends it from another thread."""

    def __init__(self, response: Any) -> None:
        self._response = response

    def lines(self) -> Generator[bytes]:
        yield from _lines(self._response)

    def stop(self) -> None:
        with suppress(Exception):
            self._response.connection.sock.shutdown(socket.SHUT_RDWR)


def _lines(response: Any) -> Generator[bytes]:
    """Without their ends, as soon as they come."""
    received = bytearray()
    # read1 gives what is there instead of waiting for a full buffer.
    while data := response.read1(1 << 16):
        received += data
        *lines, received = received.split(b"\n")
        for line in lines:
            yield bytes(line)
    if received:
        yield bytes(received)


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:300].decode(errors="replace")


def resolve(host: str) -> str:
    """An address of the host, as pods can't resolve names. Raises PlatformError."""
    return resolve_all(host)[0]


def resolve_all(host: str) -> list[str]:
    """Its addresses, without repetition. Raises PlatformError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PlatformError(f"{host} can't be resolved: {error}.") from error
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
