"""A Docker daemon of the tests' own, and the builder image in it, made from Debian's packages: nothing is pulled.

Needs root and the programs of the Debian packages docker.io and mmdebstrap. It has a directory, a socket, control
groups and a containerd of its own and no network, so it touches no other daemon and no interface of the host.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import docker
import psutil
import pytest
import requests
from docker import errors

# Set it where a missing daemon is an error instead of a reason to skip.
REQUIRED = "CLOUDIFY_TEST_DOCKER"
# The first use makes the image, which takes a minute or, on a busy machine, several.
SECONDS = 1500
_ROOT = Path(__file__).parents[2]
_PROGRAMS = ("dockerd", "containerd", "runc", "mmdebstrap", "setpriv")
_SUITE = "bookworm"
# What the Dockerfile installs: there already, its own steps are quick.
_PACKAGES = "ca-certificates,git,python3,python3-venv,python3-pip,curl,patch,procps,tini,unzip,xz-utils,zstd"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
IMAGE = "cloudify-test-{}:latest"
_BASE = "cloudify-test-base"
_START_SECONDS = 120.0
_START_ATTEMPTS = 5
_STOP_SECONDS = 60.0
_BUILD_ATTEMPTS = 3


class NoDaemon(Exception):
    """The machine doesn't let a daemon start, or gives no packages for its images."""


def find_obstacle() -> str | None:
    """Why no daemon can be started here; None when one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a Docker daemon of the tests' own needs Linux and root"
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} missing: apt-get install --no-install-recommends docker.io mmdebstrap"
    return None


class DockerEngine:
    """Started by the constructor. Close it with `close`, which leaves nothing behind."""

    def __init__(self) -> None:
        # Short, for sockets; on disk, for images.
        self.directory = Path(tempfile.mkdtemp(prefix="dockerd-", dir="/var/tmp"))
        self.host = f"unix://{self.directory}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._has_base = False
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Returns when the daemon answers. Also after `stop` and `kill`, with the images and containers it had."""
        for attempt in range(1, _START_ATTEMPTS + 1):
            if self._is_started():
                return
            # It gives its containerd 15 s, which a busy machine may not give it.
            self._end(signal.SIGKILL)
            self._end_processes()
            if attempt == _START_ATTEMPTS:
                said = (self.directory / "log").read_text(errors="replace")[-1500:]
                raise NoDaemon(f"dockerd did not start: {said}")

    def _is_started(self) -> bool:
        state = self.directory
        command = ["setpriv", "--pdeathsig", "TERM", "dockerd", "--host", self.host]
        command += ["--data-root", f"{state}/data", "--exec-root", f"{state}/exec", "--pidfile", f"{state}/pid"]
        command += ["--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
        command += ["--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", f"/{state.name}"]
        (state / "pid").unlink(missing_ok=True)
        with (state / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_answering():
            if self._process.poll() is not None or time.monotonic() > deadline:
                return False
            threading.Event().wait(0.05)
        return True

    def stop(self) -> None:
        """An orderly end, as at a shutdown: it ends the containers first."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: containers outlive their daemon."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        self.stop()
        self._end_processes()
        for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
            point = line.split()[4]
            if point.startswith(f"{self.directory}/"):
                subprocess.run(["umount", "--lazy", point], check=False)
        for parent, names, _ in os.walk("/sys/fs/cgroup"):
            if self.directory.name in names:
                with contextlib.suppress(OSError):
                    Path(parent, self.directory.name).rmdir()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextlib.contextmanager
    def client(self) -> Generator[docker.APIClient]:
        client = docker.APIClient(base_url=self.host, version="auto", timeout=SECONDS)
        try:
            yield client
        finally:
            client.close()

    @functools.cached_property
    def builder_image(self) -> str:
        """The digest of our Dockerfile's builder, without the compilers."""
        return self.make_image("builder")

    def make_image(self, target: str) -> str:
        """Makes our Dockerfile's target, without compilers; returns the image's digest. Its name is IMAGE with the
        target."""
        with self.client() as client:
            if not self._has_base:
                self._make_base(client)
                self._has_base = True
            return self._build(client, target)

    def _make_base(self, client: docker.APIClient) -> None:
        archive = self.directory / "base.tar"
        # Interrupted writing leaves nothing to save here; and nobody reads manuals.
        options = ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "5"']
        options += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
        if Path(_CERTIFICATES).exists():
            options.append(f"--customize-hook=copy-in {_CERTIFICATES} {Path(_CERTIFICATES).parent}/")
        # Without sources the Dockerfile's own steps download and read no lists; all its packages are installed already.
        options.append('--customize-hook=rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*')
        command = ["mmdebstrap", "--variant=minbase", f"--include={_PACKAGES}", *options, _SUITE, str(archive)]
        made = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
        if made.returncode != 0:
            raise NoDaemon(f"mmdebstrap made no base image: {made.stderr[-1500:]}")
        client.import_image_from_file(str(archive), repository=_BASE, tag="latest")
        archive.unlink()

    def _build(self, client: docker.APIClient, target: str) -> str:
        # Its packages come from a registry, which may fail for a moment; what is made already is not made again.
        for attempt in range(1, _BUILD_ATTEMPTS + 1):
            try:
                return self._build_once(client, target)
            except RuntimeError:
                if attempt == _BUILD_ATTEMPTS:
                    raise
        raise AssertionError("at least one attempt")

    def _build_once(self, client: docker.APIClient, target: str) -> str:
        mirrors = {name: os.environ[name] for name in ("PIP_INDEX_URL",) if name in os.environ}
        said: list[str] = []
        steps = client.build(
            path=str(_ROOT),
            target=target,
            tag=IMAGE.format(target),
            # The daemon makes the stages before the target, too, and the base has all packages but the compilers.
            buildargs={"BASE_IMAGE": _BASE, "BUILD_PACKAGES": "", **mirrors},
            network_mode="host",
            rm=True,
            forcerm=True,
            decode=True,
        )
        for step in steps:
            said.append(str(step.get("stream") or step.get("error") or ""))
            if "error" in step:
                raise RuntimeError(f"The image {target} can't be built: {''.join(said)[-3000:]}")
        return str(client.inspect_image(IMAGE.format(target))["Id"])

    def _is_answering(self) -> bool:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            try:
                probe.connect(f"{self.directory}/docker.sock")
            except OSError:
                return False
        try:
            with self.client() as client:
                return bool(client.ping())
        except (errors.DockerException, requests.RequestException):
            return False

    def _end(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _end_processes(self) -> None:
        """Its containerd, the containers' keepers and with them the containers, which outlive a killed daemon."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if any(f"{self.directory}/" in word for word in process.cmdline()):
                    process.kill()
                    process.wait(_STOP_SECONDS)


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[DockerEngine]:
    """The session's daemon with its builder image; skips where none can run, and says why."""
    obstacle = find_obstacle()
    engine: DockerEngine | None = None
    try:
        if obstacle is None:
            engine = DockerEngine()
            started = time.monotonic()
            assert engine.builder_image
            print(f"builder image made in {time.monotonic() - started:.0f} s")
    except NoDaemon as error:
        obstacle = str(error)
    except BaseException:
        if engine is not None:
            engine.close()
        raise
    if obstacle is not None:
        if engine is not None:
            engine.close()
        if os.environ.get(REQUIRED):
            pytest.fail(f"no Docker daemon: {obstacle}")
        pytest.skip(f"no Docker daemon: {obstacle}")
    assert engine is not None
    yield engine
    engine.close()
