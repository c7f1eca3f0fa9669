"""Runs commands in bubblewrap sandboxes on this host. The sandbox's properties: README.md in the parent folder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from shared.errors import PlatformError
from shared.settings import NetworkSettings
from workers.egress import listener as egress_listener
from workers.egress.policy import EgressPolicy
from workers.egress.proxy import EgressProxy
from workers.egress.upstream import UpstreamProxy
from workers.executors.attachments import DirectoryTrees, Run, run_attached
from workers.executors.base import (
    ExecutionResult,
    ExecutionSpec,
    Limits,
    OnOutput,
    RunOutcome,
    Trees,
    check_run_name,
    is_run_name,
)
from workers.executors.bubblewrap.arguments import (
    EgressFiles,
    build_arguments,
    find_bubblewrap,
    write_system_files,
)
from workers.executors.bubblewrap.device_nodes import make_device_nodes
from workers.executors.bubblewrap.process import SandboxProcess, waiting_command
from workers.executors.bubblewrap.spawner import Spawner
from workers.executors.cgroups import ControlGroup, ControlGroups, discover_control_groups
from workers.executors.disk_watchdog import DiskWatchdog
from workers.executors.environment import (
    build_environment,
    gather_certificates,
    listening_command,
    registry_environment,
)
from workers.executors.monitor import RunMonitor
from workers.executors.process_tree import ProcessIdentity, end_process, find_marked
from workers.executors.run_record import RunRecord
from workers.executors.seccomp import build_filter
from workers.executors.set_id_bits import strip_set_id_bits
from workers.executors.toolchain import Toolchain

_log = logging.getLogger(__name__)
_REAP_SECONDS = 30.0
_GIVE_UP_SECONDS = 5.0
_MEBIBYTE = 1024 * 1024
_FORBIDDEN_HELP = """\
This host does not let the worker make sandboxes, and builds never run without one. Any of these fixes it:
  - allow unprivileged user namespaces: sysctl -w kernel.unprivileged_userns_clone=1 (Debian),
    sysctl -w user.max_user_namespaces=15000 (RHEL);
  - Ubuntu 23.10 and later: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that
    grants `userns` to bwrap;
  - in a container: run it with --security-opt seccomp=unconfined --security-opt apparmor=unconfined
    --security-opt systempaths=unconfined, or use another executor.
What bubblewrap said: """


class BubblewrapExecutor:
    """Implements Executor. `runtime_directory` holds one small directory per live run; workers of a host share it.

    `control_groups` None: limits are then kept by watching, only approximately (`probe` warns). `host_environment`
    is the worker's own, of which only the CA bundle's place and REGISTRY_VARIABLES are used (the settings win).
    """

    def __init__(
        self,
        settings: NetworkSettings,
        runtime_directory: Path,
        toolchain: Toolchain,
        *,
        host_environment: Mapping[str, str],
        control_groups: ControlGroups | None,
    ) -> None:
        self._policy = EgressPolicy(settings.egress_allowed_hosts, settings.egress_allowed_networks)
        self._upstream = UpstreamProxy.of(settings.egress_proxy)
        self._runtime_directory = runtime_directory
        self.toolchain: Toolchain = toolchain
        self._registries = registry_environment(settings, host_environment)
        self._control_groups = control_groups
        self._certificates = gather_certificates(settings, host_environment, runtime_directory)
        self._program = find_bubblewrap()
        self._filter = build_filter()
        self._spawner = Spawner()
        runtime_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._devices = make_device_nodes(runtime_directory)
        self._runtime_digest = hashlib.sha256(os.fsencode(runtime_directory.resolve())).hexdigest()[:12]
        worker = ProcessIdentity.find(os.getpid())
        assert worker is not None
        self._worker = worker

    @classmethod
    def for_host(cls, settings: NetworkSettings, runtime_directory: Path, toolchain: Toolchain) -> BubblewrapExecutor:
        """With this process's environment and the control groups that it may use."""
        return cls(
            settings,
            runtime_directory,
            toolchain,
            host_environment=dict(os.environ),
            control_groups=discover_control_groups(),
        )

    def probe(self) -> None:
        """Sweeps, then runs a command. Warns if the host gives no control groups."""
        if self._control_groups is None:
            _log.warning(
                "No control groups: memory and processes of builds are limited by watching them, CPU not at all. "
                "Run the worker as a systemd service with Delegate=yes, or as root, for exact limits."
            )
        self.sweep()
        try:
            result = self._try_out()
        except PlatformError as error:
            raise PlatformError(f"{_FORBIDDEN_HELP}{error}") from error
        if result.outcome is not RunOutcome.SUCCESS:
            raise PlatformError(f"A sandbox can be made but does not work: {result.message}")

    def run(self, spec: ExecutionSpec, trees: Trees, on_output: OnOutput, cancel: threading.Event) -> ExecutionResult:
        """See Executor.run. An exception of `on_output` ends the command and is raised here."""
        return run_attached(spec, trees, on_output, cancel, self._run)

    def take_over(self, name: str) -> None:
        """See Executor.take_over: runs end with their worker."""
        self.reap(name)

    def reap(self, name: str) -> None:
        """See Executor.reap. Raises PlatformError if a process can't be ended."""
        check_run_name(name)
        directory = self._runtime_directory / name
        record = RunRecord.read(directory)
        for process in (record.init, record.launcher) if record is not None else ():
            if process is not None:
                end_process(process)
        # A worker that dies while a sandbox starts may leave it waiting forever, before it is recorded.
        for process in find_marked(self._marker(name)):
            end_process(process)
        if self._control_groups is not None:
            _remove_group(self._control_groups.group(name), name)
        shutil.rmtree(directory, ignore_errors=True)

    def close(self) -> None:
        """Nothing to close: sandboxes end with this process."""

    def sweep(self) -> list[str]:
        """See Executor.sweep. Looks at the runs of this runtime directory."""
        abandoned: list[str] = []
        for directory in self._runtime_directory.iterdir():
            if not is_run_name(directory.name):
                continue
            record = RunRecord.read(directory)
            with contextlib.suppress(FileNotFoundError):  # a live worker's run may end meanwhile
                # Without a record it may be a run that another worker is just starting.
                is_new = record is None and time.time() - directory.stat().st_mtime < _REAP_SECONDS
                if not is_new and (record is None or not record.worker.is_alive):
                    self.reap(directory.name)
                    abandoned.append(directory.name)
        return abandoned

    def _run(self, run: Run) -> ExecutionResult:
        spec = run.spec
        with contextlib.ExitStack() as stack:
            try:
                directory = self._claim(spec.name)
                stack.callback(self._forget, directory)
                RunRecord(self._worker).write(directory)
                write_system_files(directory, self.toolchain)
                group = self._make_group(spec, stack)
                proxy, egress = self._open_egress(spec, directory, stack)
                sandbox = self._start(run, directory, egress)
            except OSError as error:
                raise PlatformError(f"The sandbox of {spec.name} can't be prepared: {error}.") from error
            stack.callback(sandbox.destroy)
            result = self._supervise(run, sandbox, group, directory)
            if proxy is not None and result.outcome is RunOutcome.USER_ERROR:
                proxy.check_served()
        return result if proxy is None else dataclasses.replace(result, traffic=proxy.traffic())

    def _marker(self, name: str) -> str:
        return f"cloudify-sandbox:{self._runtime_digest}:{name}"

    def _forget(self, directory: Path) -> None:
        """Deletes the directory, unless something still runs: `reap` finds that by the record in it."""
        record = RunRecord.read(directory)
        if record is None or record.init is None or not record.init.is_alive:
            shutil.rmtree(directory, ignore_errors=True)

    def _claim(self, name: str) -> Path:
        directory = self._runtime_directory / name
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            self.reap(name)
            directory.mkdir(mode=0o700)
        return directory

    def _make_group(self, spec: ExecutionSpec, stack: contextlib.ExitStack) -> ControlGroup | None:
        if self._control_groups is None:
            return None
        group = self._control_groups.group(spec.name)
        # A group left by a dead worker keeps its counters, and an old kill would be blamed on this run.
        if not group.remove():
            raise PlatformError(f"The control group of {spec.name} is still in use.")
        stack.callback(_remove_group, group, spec.name)
        group.create()
        group.configure(spec.limits)
        return group

    def _open_egress(
        self, spec: ExecutionSpec, directory: Path, stack: contextlib.ExitStack
    ) -> tuple[EgressProxy | None, EgressFiles | None]:
        if spec.network != "proxy":
            return None, None
        socket = directory / "proxy.sock"
        proxy = EgressProxy(socket, self._policy, self._upstream)
        stack.callback(proxy.close)
        return proxy, EgressFiles(socket, Path(egress_listener.__file__).resolve())

    def _start(self, run: Run, directory: Path, egress: EgressFiles | None) -> SandboxProcess:
        spec = run.spec
        environment = build_environment(
            spec, self.toolchain, self._registries, has_certificates=self._certificates is not None
        )
        arguments = build_arguments(
            spec, run.attachments, environment, self.toolchain, directory, self._certificates, egress, self._devices
        )
        command = waiting_command(spec.command)
        if egress is not None:
            command = listening_command(self.toolchain.python, command)
        marker = self._marker(spec.name)
        return SandboxProcess(self._spawner, self._program, marker, arguments, command, self._filter)

    def _supervise(
        self, run: Run, sandbox: SandboxProcess, group: ControlGroup | None, directory: Path
    ) -> ExecutionResult:
        limits, writable = run.spec.limits, run.attachments.writable_paths
        pump = sandbox.pump(limits.output_bytes, run.on_output)
        disk = DiskWatchdog(writable, limits.disk_bytes, limits.disk_entries)
        monitor = RunMonitor(run, sandbox, group, disk, pump)
        exit_code: int | None = None
        try:
            if not sandbox.await_setup() or sandbox.init is None or sandbox.launcher is None:
                end = None
                sandbox.wait(_GIVE_UP_SECONDS)  # for its own message and exit code, which the kill below would replace
            else:
                RunRecord(self._worker, sandbox.launcher, sandbox.init).write(directory)
                sandbox.release(limits, group)
                end = monitor.watch()
            sandbox.wait_until_gone()
            strip_set_id_bits(writable)
            exit_code = sandbox.exit_code()
        finally:
            sandbox.kill()
            disk.close()
            pump.finish(did_start=exit_code is not None)
        if pump.error is not None:
            raise pump.error
        if exit_code is None and end is None and sandbox.launcher_code() == 1:
            raise PlatformError(pump.held.decode(errors="replace").strip() or "bubblewrap gave no reason.")
        final = monitor.conclude(end, exit_code, sandbox.launcher_code())
        return ExecutionResult(final.outcome, exit_code, final.message, 0.0, monitor.peak_memory_bytes())

    def _try_out(self) -> ExecutionResult:
        limits = Limits(
            memory_bytes=256 * _MEBIBYTE,
            cpu_count=1,
            process_count=32,
            disk_bytes=_MEBIBYTE,
            output_bytes=64 * 1024,
            wall_seconds=30,
            stop_seconds=1,
        )
        name = f"probe-{os.getpid()}-{threading.get_ident()}"
        spec = ExecutionSpec(name, ("true",), "/", (), None, {}, limits, network="proxy")
        printed: list[bytes] = []
        trees = DirectoryTrees(self._runtime_directory)
        result = self.run(spec, trees, lambda _, data: printed.append(data), threading.Event())
        said = b"".join(printed).decode(errors="replace").strip()
        return dataclasses.replace(result, message=f"{result.message} {said}".strip())


def _remove_group(group: ControlGroup, name: str) -> None:
    if not group.remove():
        raise PlatformError(f"Processes of {name} are still there after SIGKILL.")
