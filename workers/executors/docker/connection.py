"""The Docker daemon as this package needs it: a dozen calls, and errors that say whether another try makes sense."""

from __future__ import annotations

import contextlib
import datetime
import io
import socket
import tarfile
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import docker
import requests
from docker import errors
from docker.transport import UnixHTTPAdapter
from docker.utils import kwargs_from_env, version_lt

from shared.errors import PlatformError

T = TypeVar("T")

# Docker Engine 20.10: the first with private control-group namespaces.
MINIMUM_API_VERSION = "1.41"
_TIMEOUT_SECONDS = 60
_CONNECTIONS = 64


class DaemonLost(PlatformError):
    """The daemon doesn't answer; the result of its last request is unknown."""


class ImageMissing(PlatformError):
    """The daemon has no such image, or one that can't run a build."""


class NameTaken(Exception):
    """There is a container of this name already."""


class ContainerGone(Exception):
    """There is no such container, or not any more."""


class AttachedStream:
    """The two-way connection to a container's standard streams; closing it closes the container's input."""

    def __init__(self, connection: socket.socket, response: Any) -> None:
        connection.settimeout(None)
        self._connection = connection
        self._response = response

    def receive(self, size: int) -> bytes:
        """Empty at the end. Raises OSError."""
        return self._connection.recv(size)

    def send(self, data: bytes) -> None:
        """Raises OSError."""
        self._connection.sendall(data)

    def end(self) -> None:
        """Wakes who receives; `close` is still due."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class _SharedConnections(UnixHTTPAdapter):
    """The library's own keeps connections per URL, and each container has others: none would be used again."""

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        return super().get_connection(self.socket_path, proxies)


class DockerConnection:
    """Safe from several threads. Everything raises DaemonLost when the daemon can't be reached."""

    def __init__(self, host: str, environment: Mapping[str, str]) -> None:
        """`host`: unix:///… or tcp://…; DOCKER_CERT_PATH and DOCKER_TLS_VERIFY of `environment` are honoured."""
        self.host = host
        if host.startswith("unix://"):
            _try_socket(host)
        options = kwargs_from_env(environment={**environment, "DOCKER_HOST": host})
        try:
            self._client: Any = docker.APIClient(
                **options, version="auto", timeout=_TIMEOUT_SECONDS, max_pool_size=_CONNECTIONS
            )
        except (errors.DockerException, requests.RequestException) as error:
            raise _unanswered(host, error) from error
        if host.startswith("unix://"):
            shared = _SharedConnections(
                host.replace("unix", "http+unix", 1), _TIMEOUT_SECONDS, pool_connections=1, max_pool_size=_CONNECTIONS
            )
            self._client.get_adapter(self._client.base_url).close()
            self._client.mount(self._client.base_url, shared)

    def close(self) -> None:
        self._client.close()

    @property
    def is_too_old(self) -> bool:
        return bool(version_lt(str(self._client.api_version), MINIMUM_API_VERSION))

    @property
    def api_version(self) -> str:
        return str(self._client.api_version)

    def info(self) -> dict[str, Any]:
        return self._call(self._client.info)

    def image(self, name: str) -> dict[str, Any]:
        """Raises ImageMissing."""
        try:
            return self._call(lambda: self._client.inspect_image(name))
        except errors.NotFound as error:
            raise ImageMissing(
                f"The Docker daemon at {self.host} has no image {name}, and nothing is pulled while builds run. Pull"
                " it there (docker pull), or build it from Cloudify's Dockerfile (docker build --target builder) and"
                " name it with CLOUDIFY_BUILDER_IMAGE."
            ) from error

    def create(self, name: str, configuration: Mapping[str, Any]) -> str:
        """The new container's id. Raises NameTaken, ImageMissing, and PlatformError for a refused request."""
        try:
            made = self._call(lambda: self._client.create_container_from_config(dict(configuration), name))
        except errors.ImageNotFound:
            self.image(str(configuration["Image"]))
            raise
        except errors.APIError as error:
            if error.status_code == 409:
                raise NameTaken(name) from error
            if error.status_code == 404:
                self.image(str(configuration["Image"]))
            raise PlatformError(f"Docker can't make the sandbox: {error.explanation}") from error
        return str(made["Id"])

    def attach(self, container: str) -> AttachedStream:
        """Before the start, or output may be missed. Raises ContainerGone."""
        streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        try:
            made = self._call(lambda: self._client.attach_socket(container, params=streams))
        except errors.NotFound as error:
            raise ContainerGone(container) from error
        # A reader around the socket, or the socket itself where it is encrypted.
        return AttachedStream(getattr(made, "_sock", made), getattr(made, "_response", made))

    def start(self, container: str) -> None:
        """Raises ContainerGone, ImageMissing for an image that lacks what builds need, and PlatformError."""
        try:
            self._call(lambda: self._client.start(container))
        except errors.NotFound as error:
            if "executable file not found" in str(error) or "no such file or directory" in str(error):
                raise self._unfit(error) from error
            raise ContainerGone(container) from error
        except errors.APIError as error:
            if "executable file not found" in str(error) or "exec: " in str(error):
                raise self._unfit(error) from error
            raise PlatformError(f"Docker can't start the sandbox: {error.explanation}") from error

    def _unfit(self, error: errors.APIError) -> ImageMissing:
        return ImageMissing(
            f"The builder image can't run a build ({error.explanation}). Build it from Cloudify's Dockerfile"
            " (docker build --target builder) and name it with CLOUDIFY_BUILDER_IMAGE."
        )

    def inspect(self, container: str) -> dict[str, Any]:
        """Raises ContainerGone."""
        try:
            return self._call(lambda: self._client.inspect_container(container))
        except errors.NotFound as error:
            raise ContainerGone(container) from error

    def signal(self, container: str, name: str) -> None:
        """No error if the container no longer runs."""
        with contextlib.suppress(errors.APIError):
            self._call(lambda: self._client.kill(container, name))

    def remove(self, container: str) -> None:
        """Kills it if it runs, and deletes it with its volumes. No error when it is gone or going."""
        try:
            self._call(lambda: self._client.remove_container(container, v=True, force=True))
        except errors.NotFound:
            return
        except errors.APIError as error:
            if error.status_code != 409:
                raise PlatformError(f"Docker can't remove a sandbox: {error.explanation}") from error

    def run_to_end(self, configuration: Mapping[str, Any]) -> None:
        """A container for the platform's own purposes, removed at the end. Raises PlatformError when it fails."""
        container = str(self._call(lambda: self._client.create_container_from_config(dict(configuration)))["Id"])
        try:
            self.start(container)
            code = self._call(lambda: self._client.wait(container))["StatusCode"]
            if code != 0:
                raise PlatformError(f"{configuration['Cmd']} ended with code {code} in a container.")
        finally:
            self.remove(container)

    def labelled(self, labels: Mapping[str, str]) -> list[dict[str, Any]]:
        """Containers, running or not, with all of the labels."""
        filters = {"label": [f"{name}={value}" for name, value in labels.items()]}
        return self._call(lambda: self._client.containers(all=True, filters=filters))

    def kills_from_outside(self, container: str, state: Mapping[str, Any]) -> bool:
        """Whether somebody asked the daemon to end the container (`state` is its last): `docker kill`, a shutdown."""
        since, until = (_seconds(str(state[name])) for name in ("StartedAt", "FinishedAt"))
        filters = {"container": container, "event": ["kill", "stop"], "type": "container"}
        # It ends by itself at `until`; closed before that, the library would leave its connection behind.
        return bool(
            self._call(lambda: list(self._client.events(since=since, until=until + 1, filters=filters, decode=True)))
        )

    def read_file(self, image: str, path: str) -> bytes:
        """A file of an image, without running anything of it. Raises ImageMissing where there is no such file."""
        container = str(self._call(lambda: self._client.create_container(image, ["-"], network_disabled=True))["Id"])
        try:
            chunks, _ = self._call(lambda: self._client.get_archive(container, path))
            with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
                file = archive.extractfile(archive.next() or tarfile.TarInfo())
                assert file is not None
                return file.read()
        except errors.NotFound as error:
            raise ImageMissing(
                f"{image} is not a builder image of Cloudify's: it has no {path}. Build one from Cloudify's Dockerfile"
                " (docker build --target builder)."
            ) from error
        finally:
            self.remove(container)

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except errors.APIError as error:  # one of requests' exceptions too
            text = str(error)
            # Its connection to containerd, without which it can do nothing.
            if "connection refused" in text or ("containerd" in text and "transport" in text):
                raise DaemonLost(f"The Docker daemon at {self.host} is starting or stopping: {error}.") from error
            raise
        except requests.RequestException as error:
            raise DaemonLost(f"The Docker daemon at {self.host} doesn't answer: {error}.") from error


def _try_socket(host: str) -> None:
    """The library would leave a socket that finds nobody unclosed."""
    with socket.socket(socket.AF_UNIX) as tried:
        try:
            tried.connect(host.removeprefix("unix://"))
        except OSError as error:
            raise _unanswered(host, error) from error


def _unanswered(host: str, error: Exception) -> DaemonLost:
    return DaemonLost(
        f"The Docker daemon at {host} doesn't answer ({error}). Start it, let the worker's user reach its socket (group"
        " `docker`), or name another one with CLOUDIFY_DOCKER_HOST."
    )


def _seconds(moment: str) -> int:
    """RFC 3339 with nanoseconds, as the daemon writes it, to whole seconds of the daemon's clock."""
    return int(datetime.datetime.fromisoformat(moment[:19] + "+00:00").timestamp())
