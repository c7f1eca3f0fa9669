"""Runs commands in containers of a Docker daemon. The sandbox's properties: README.md in the parent folder."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from shared.errors import PlatformError
from shared.settings import ExecutorSettings, NetworkSettings
from workers.egress.policy import EgressPolicy
from workers.egress.proxy import EgressProxy
from workers.egress.upstream import UpstreamProxy
from workers.executors.attachments import Run, run_attached
from workers.executors.base import (
    ExecutionResult,
    ExecutionSpec,
    OnOutput,
    RunOutcome,
    Trees,
    check_run_name,
    is_run_name,
)
from workers.executors.disk_watchdog import DiskWatchdog
from workers.executors.docker.backend import container_owner
from workers.executors.docker.connection import ContainerGone, DockerConnection, ImageMissing, NameTaken
from workers.executors.docker.container import DockerContainer
from workers.executors.docker.image import TOOLCHAIN_FILE, toolchain_of
from workers.executors.docker.options import (
    LABEL,
    cleaning_configuration,
    container_configuration,
    write_run_files,
)
from workers.executors.docker.probe import check_daemon, check_sandbox
from workers.executors.environment import (
    build_environment,
    gather_certificates,
    listening_command,
    registry_environment,
)
from workers.executors.monitor import RunMonitor
from workers.executors.process_tree import ProcessIdentity
from workers.executors.run_record import RunRecord
from workers.executors.seccomp import build_filter
from workers.executors.set_id_bits import strip_set_id_bits
from workers.executors.toolchain import Toolchain

_log = logging.getLogger(__name__)
_REAP_SECONDS = 60.0
_BEGINNING_SECONDS = 30.0
_IDENTITY = ".identity"


class DockerExecutor:
    """Implements Executor. `runtime_directory` holds one small directory per live run; workers of a host share it.

    The daemon must see `runtime_directory` and the paths of every spec at the same place as the worker.
    """

    def __init__(
        self,
        image: str,
        settings: NetworkSettings,
        runtime_directory: Path,
        *,
        connection: DockerConnection,
        host_environment: Mapping[str, str],
    ) -> None:
        """`image` is named by digest. Raises PlatformError with instructions when the daemon or its image is unfit."""
        self._policy = EgressPolicy(settings.egress_allowed_hosts, settings.egress_allowed_networks)
        self._upstream = UpstreamProxy.of(settings.egress_proxy)
        self._connection = connection
        self._image = image
        self._runtime_directory = runtime_directory
        self._registries = registry_environment(settings, host_environment)
        self._certificates = gather_certificates(settings, host_environment, runtime_directory)
        daemon = check_daemon(connection, self._image)
        self._processors = daemon.processors
        self._filter = build_filter(daemon.machine)
        toolchain = toolchain_of(connection.read_file(self._image, TOOLCHAIN_FILE).decode())
        self.toolchain: Toolchain = dataclasses.replace(toolchain, image=self._image)
        self.owner = container_owner()
        runtime_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._identity = _identity_of(runtime_directory)
        worker = ProcessIdentity.find(os.getpid())
        assert worker is not None
        self._worker = worker

    @classmethod
    def for_host(cls, executor: ExecutorSettings, network: NetworkSettings, runtime_directory: Path) -> DockerExecutor:
        """With this process's environment and the daemon that the settings name."""
        environment = dict(os.environ)
        connection = DockerConnection(executor.docker_host, environment)
        image = executor.builder_image
        return cls(image, network, runtime_directory, connection=connection, host_environment=environment)

    def close(self) -> None:
        """Closes the connections to the daemon. No run may be left."""
        self._connection.close()

    def probe(self) -> None:
        """Sweeps, then runs a command with every option."""
        self.sweep()
        with tempfile.TemporaryDirectory(dir=self._runtime_directory, prefix=".probe-") as name:
            check_sandbox(self, Path(name), self.owner)

    def run(self, spec: ExecutionSpec, trees: Trees, on_output: OnOutput, cancel: threading.Event) -> ExecutionResult:
        """See Executor.run. An exception of `on_output` ends the command and is raised here."""
        return run_attached(spec, trees, on_output, cancel, self._run)

    def take_over(self, name: str) -> None:
        """See Executor.take_over: runs end with their worker."""
        self.reap(name)

    def reap(self, name: str) -> None:
        """See Executor.reap. Raises PlatformError if a container can't be removed."""
        check_run_name(name)
        self._remove_containers({f"{LABEL}runtime": self._identity, f"{LABEL}run": name})
        shutil.rmtree(self._runtime_directory / name, ignore_errors=True)

    def sweep(self) -> list[str]:
        """See Executor.sweep. Looks at the runs of this runtime directory."""
        names = {path.name for path in self._runtime_directory.iterdir() if is_run_name(path.name)}
        for container in self._connection.labelled({f"{LABEL}runtime": self._identity}):
            names.add(str(container["Labels"][f"{LABEL}run"]))
        abandoned = sorted(name for name in names if self._is_abandoned(name))
        for name in abandoned:
            self.reap(name)
            _log.info("Ended and removed the sandbox %s, whose worker is gone.", name)
        return abandoned

    def _run(self, run: Run) -> ExecutionResult:
        with contextlib.ExitStack() as stack:
            try:
                directory, proxy = self._prepare(run, stack)
            except OSError as error:
                raise PlatformError(f"The sandbox of {run.spec.name} can't be prepared: {error}.") from error
            try:
                result = self._run_container(run, directory)
            except ImageMissing as error:
                result = ExecutionResult(RunOutcome.IMAGE_ERROR, None, str(error), 0.0, None)
        if proxy is not None and result.outcome is RunOutcome.USER_ERROR:
            proxy.check_served()
        return result if proxy is None else dataclasses.replace(result, traffic=proxy.traffic())

    def _is_abandoned(self, name: str) -> bool:
        directory = self._runtime_directory / name
        record = RunRecord.read(directory)
        if record is not None:
            return not record.worker.is_alive
        try:
            # Another worker may just be starting this run.
            return time.time() - directory.stat().st_mtime > _BEGINNING_SECONDS
        except FileNotFoundError:
            return True  # the directory is made before the container and deleted after it

    def _remove_containers(self, labels: Mapping[str, str]) -> None:
        deadline = time.monotonic() + _REAP_SECONDS
        while found := self._connection.labelled(labels):
            for container in found:
                self._connection.remove(str(container["Id"]))
            if time.monotonic() > deadline:
                raise PlatformError(f"Docker did not remove {found[0]['Names']} within {_REAP_SECONDS:.0f} s.")
            time.sleep(0.02)

    def _prepare(self, run: Run, stack: contextlib.ExitStack) -> tuple[Path, EgressProxy | None]:
        """The run's directory with its files, and the proxy where it has one; the stack undoes it."""
        spec, attachments = run.spec, run.attachments
        directory = self._claim(spec.name)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        RunRecord(self._worker).write(directory)
        write_run_files(directory, self.owner, self._filter, self._certificates)
        for path in attachments.writable_paths:
            self.owner.give(path)
        if attachments.overlay is not None:
            stack.callback(self._empty_scratch, attachments.overlay.scratch)
        if spec.network != "proxy":
            return directory, None
        proxy = EgressProxy(directory / "proxy.sock", self._policy, self._upstream)
        stack.callback(proxy.close)
        self.owner.give(directory / "proxy.sock")
        return directory, proxy

    def _empty_scratch(self, scratch: Path) -> None:
        """Files that overlayfs leaves there belong to the daemon's user: an ordinary worker could not delete them."""
        if os.geteuid() == 0:
            return
        try:
            (scratch / "work").rmdir()
        except FileNotFoundError:
            return
        except OSError:
            self._connection.run_to_end(cleaning_configuration(scratch, self._image))

    def _claim(self, name: str) -> Path:
        directory = self._runtime_directory / name
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            self.reap(name)
            directory.mkdir(mode=0o700)
        return directory

    def _create(self, run: Run, directory: Path) -> DockerContainer:
        spec = run.spec
        labels = {**spec.labels, "runtime": self._identity, "run": spec.name}
        configuration = container_configuration(
            spec,
            run.attachments,
            directory,
            self.owner,
            self._image,
            self.toolchain.python,
            self._processors,
            labels,
        )
        name = f"cloudify-{self._identity}-{spec.name}"
        try:
            created = self._connection.create(name, configuration)
        except NameTaken:
            self._remove_containers({f"{LABEL}runtime": self._identity, f"{LABEL}run": spec.name})
            created = self._connection.create(name, configuration)
        try:
            return DockerContainer(self._connection, created)
        except BaseException:
            self._connection.remove(created)
            raise

    def _request(self, spec: ExecutionSpec) -> bytes:
        environment = build_environment(
            spec, self.toolchain, self._registries, has_certificates=self._certificates is not None
        )
        # For a shell a missing program is exit code 127.
        command = ("/bin/sh", "-c", 'exec "$@"', "sh", *spec.command)
        words = listening_command(self.toolchain.python, command) if spec.network == "proxy" else command
        request = {"command": words, "directory": spec.working_directory, "environment": environment}
        return json.dumps(request).encode() + b"\n"

    def _run_container(self, run: Run, directory: Path) -> ExecutionResult:
        spec, limits, writable = run.spec, run.spec.limits, run.attachments.writable_paths
        try:
            container = self._create(run, directory)
        except (ContainerGone, NameTaken) as error:
            raise PlatformError(f"Another worker runs or removes {spec.name} at this moment.") from error
        pump = container.pump(limits.output_bytes, run.on_output)
        disk = DiskWatchdog(writable, limits.disk_bytes, limits.disk_entries)
        monitor = RunMonitor(run, container, container.memory, disk, pump)
        try:
            container.start(self._request(spec))
            end = monitor.watch()
            container.wait_until_ended()
            is_evicted = end is None and container.was_ended_from_outside()
        except ContainerGone:
            end, is_evicted = None, True
        finally:
            try:
                container.destroy()
                strip_set_id_bits(writable)
            finally:
                disk.close()
                pump.finish(did_start=True)
        if pump.error is not None:
            raise pump.error
        exit_code, peak = container.exit_code(), container.memory.peak_memory_bytes()
        if is_evicted:
            return ExecutionResult(RunOutcome.EVICTED, None, "Something outside ended the container.", 0.0, peak)
        if end is None and container.lost is not None:
            return ExecutionResult(RunOutcome.PLATFORM_LOST, None, str(container.lost), 0.0, peak)
        final = monitor.conclude(end, exit_code, None)
        return ExecutionResult(final.outcome, exit_code, final.message, 0.0, peak)


def _identity_of(runtime_directory: Path) -> str:
    """The directory's own name in labels: other hosts of the same daemon have directories of the same path."""
    path = runtime_directory / _IDENTITY
    fresh = runtime_directory / f"{_IDENTITY}-{secrets.token_hex(8)}"
    fresh.write_text(secrets.token_hex(6))
    with contextlib.suppress(FileExistsError):
        os.link(fresh, path)
    fresh.unlink()
    return path.read_text()
