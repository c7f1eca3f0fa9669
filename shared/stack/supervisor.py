"""Runs a whole platform on one machine until it is asked to stop."""

from __future__ import annotations

import contextlib
import errno
import http.client
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from shared.settings import Settings
from shared.stack.disk_pulse import DiskPulse
from shared.stack.errors import BusyPort, StackError
from shared.stack.forks import ForkFailed, ForkServer
from shared.stack.home import Home
from shared.stack.object_store import ObjectStoreServer
from shared.stack.platform import WHOLE_PLATFORM, Assembly, Platform, Program, check_ports, claim_ports, command
from shared.stack.process_records import ProcessRecords
from shared.stack.processes import Process, end, last_lines, spawn
from shared.stack.server import Server
from shared.stack.supervised import Supervised, rotate
from shared.stack.worker_watch import WorkerWatch
from shared.text.wording import counted
from shared.worker_life import lives_directory

_TICK_SECONDS = 0.1
_ROTATE_EVERY_SECONDS = 30.0
_LOOK_AT_DISK_EVERY_SECONDS = 5.0
# Long enough for a busy machine; a server that ends is noticed at once.
_PORTS_FREE_WITHIN_SECONDS = 5.0
_READY_WITHIN_SECONDS = 180.0
# Their sum is below the 10 s within which Ctrl-C must end everything, with a reserve for a machine that is busy.
_CLIENTS_SECONDS, _SITES_SECONDS, _STORES_SECONDS = 4.0, 1.5, 2.5
# What workers need for a release that they are about to confirm.
_SITES = frozenset({"router", "caddy"})


class StopRequested(Exception):
    """Ctrl-C or SIGTERM."""


class Supervisor:
    """`say` prints a line for the user, `assembly` is what to run. Use it from the main thread."""

    def __init__(
        self,
        home: Home,
        environment: Mapping[str, str],
        say: Callable[[str], None],
        assembly: Assembly = WHOLE_PLATFORM,
    ) -> None:
        self._assembly = assembly
        self._home = home
        self._environment = environment
        self._say = say
        self._records = ProcessRecords(home.run_directory / "processes.json")
        self._platform: Platform | None = None
        self._supervised: dict[str, Supervised] = {}
        self._claims: list[socket.socket] = []
        self._is_stop_requested = False
        self._rotate_at = 0.0
        self._look_at_disk_at = 0.0
        self._is_disk_full = False
        self._watch: WorkerWatch | None = None
        self._pulse: DiskPulse | None = None
        self._forks: ForkServer | None = None

    def start(self) -> Platform:
        """Returns when everything answers. Raises StackError, SettingsError or StopRequested; call `stop` then."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        settings = self._assembly.preliminary(self._home.directory, self._environment)
        self._home.lock()
        self._home.check_version()
        was_killed = self._records.is_unclean()
        if orphans := self._records.end_orphans():
            self._say(f"Ended {counted(len(orphans), 'process', 'processes')} that a former run left behind.")
        self._claim_ports(settings, _PORTS_FREE_WITHIN_SECONDS if was_killed else 0.0)
        self._home.check_space()
        self._home.empty_metrics()
        self._platform = platform = self._assembly.assemble(self._home, self._environment)
        self._watch_workers(platform.settings.workers.silence_seconds)
        for server in platform.servers:
            self._start_server(server)
            self._check_stop()
        if platform.fork_server is not None:
            self._start_fork_server(platform, platform.fork_server)
        # The object store takes longest, so programs that don't need it yet start first. The API connects on demand.
        has_api = any(program.role == "api" for program in platform.programs)
        for program in platform.programs:
            if program.role == "api":
                self._start_program(program)
        self._wait_for_servers([server for server in platform.servers if server.name != ObjectStoreServer.name])
        if has_api:
            self._prepare()
        for program in platform.programs:
            if program.role != "api":
                self._start_program(program)
                self._check_stop()
        self._wait_for_servers(platform.servers)
        if has_api:
            self._wait_for_api(platform)
        return platform

    def run(self, foreground: list[str] | None = None) -> None:
        """Keeps everything running until a signal. `foreground` is a command that runs in the terminal meanwhile."""
        assert self._platform is not None
        shown: subprocess.Popen[bytes] | None = None
        try:
            if foreground is not None:
                shown = subprocess.Popen(foreground, env=dict(self._platform.environment), stdin=subprocess.DEVNULL)
            while True:
                self._tick()
                # Ctrl-C also reaches the command, whose end isn't a failure then.
                self._check_stop()
                if shown is not None and shown.poll() is not None:
                    if shown.returncode != 0:
                        self._say(
                            "The sample site was not deployed; the platform keeps running. Deploy it with `cloudify`."
                        )
                    shown = None
                    self._say("Everything runs; Ctrl-C stops it.")
        except StopRequested:
            if shown is not None and shown.poll() is None:
                shown.terminate()
                shown.wait()

    def stop(self) -> None:
        """Stops workers and API first, then the servers they use. May be called again, and after a failed start."""
        if self._pulse is not None:
            self._pulse.stop()
        roles = list(self._supervised)
        stores = {server.name: server.stop_seconds for server in self._servers() if server.name not in _SITES}
        clients = [role for role in roles if role not in stores and role not in _SITES]
        sites = [role for role in roles if role in _SITES]
        for group, seconds in ((clients, _CLIENTS_SECONDS), (sites, _SITES_SECONDS), (stores, _STORES_SECONDS)):
            started = [role for role in group if role in self._supervised]
            for role in started:
                self._supervised[role].ask_to_stop()
            asked_at = time.monotonic()
            # Some need less: the others have ended meanwhile.
            for role in sorted(started, key=lambda role: stores.get(role, seconds)):
                self._supervised.pop(role).stop(asked_at + min(seconds, stores.get(role, seconds)))
        if roles:
            # On a full disk the records of ended processes remain, which is harmless.
            with contextlib.suppress(OSError):
                self._records.clear()
        if self._forks is not None:
            self._forks.close()
        while self._claims:
            self._claims.pop().close()

    def _watch_workers(self, silence_seconds: float) -> None:
        lives = lives_directory(self._home.directory)
        self._pulse = pulse = DiskPulse(lives / "supervisor.pulse")
        self._watch = WorkerWatch(lives, silence_seconds, self._say, disk_answered_at=lambda: pulse.answered_at)
        pulse.start()

    def _claim_ports(self, settings: Settings, seconds: float) -> None:
        """Raises BusyPort. Killed processes may still hold their ports for `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                ports = self._assembly.public_ports(settings)
                check_ports(ports)
                claim_ports(ports, self._claims)
                return
            except BusyPort:
                if time.monotonic() >= deadline:
                    raise
                while self._claims:
                    self._claims.pop().close()
            self._check_stop()
            time.sleep(0.05)

    def _servers(self) -> tuple[Server, ...]:
        return () if self._platform is None else self._platform.servers

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        # Checked between steps: an exception here could lose a process that was just started.
        self._is_stop_requested = True

    def _check_stop(self) -> None:
        if self._is_stop_requested:
            raise StopRequested

    def _start_server(self, server: Server) -> None:
        def launch() -> subprocess.Popen[bytes]:
            server.start()
            assert server.process is not None
            return server.process

        self._start(Supervised(server.name, launch, log_path=server.log_path, stop_signal=server.stop_signal))

    def _start_program(self, program: Program) -> None:
        log_path = self._home.log_path(program.role)

        def launch() -> Process:
            return self._fork(program, log_path) if program.is_forked else self._spawn(program, log_path)

        self._start(Supervised(program.role, launch, log_path=log_path))

    def _start_fork_server(self, platform: Platform, program: Program) -> None:
        log_path = self._home.log_path(program.role)
        environment = {**platform.environment, **program.environment}
        self._forks = ForkServer(command(program), log_path, self._home.directory, environment)
        self._start(Supervised(program.role, self._forks.launch, log_path=log_path))

    def _fork(self, program: Program, log_path: Path) -> Process:
        assert self._platform is not None
        if self._forks is not None:
            environment = {**self._platform.environment, **program.environment}
            try:
                return self._forks.fork(program.role, program.arguments, log_path=log_path, environment=environment)
            except ForkFailed:
                # Without it, the process needs more memory, and all else is the same.
                pass
        return self._spawn(program, log_path)

    def _spawn(self, program: Program, log_path: Path) -> subprocess.Popen[bytes]:
        assert self._platform is not None
        return spawn(
            command(program),
            log_path=log_path,
            directory=self._home.directory,
            environment={**self._platform.environment, **program.environment},
        )

    def _start(self, supervised: Supervised) -> None:
        try:
            pid = supervised.start()
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise StackError(f"The disk of {self._home.directory} is full; free some space.") from error
            raise
        # Registered for `stop` before anything else can fail.
        self._supervised[supervised.role] = supervised
        self._records.add(supervised.role, pid)

    def _wait_for_servers(self, servers: Sequence[Server]) -> None:
        deadline = time.monotonic() + _READY_WITHIN_SECONDS
        for server in servers:
            while not server.is_ready():
                self._check_stop()
                assert server.process is not None
                if server.process.poll() is not None:
                    raise server.failure(f"ended with exit code {server.process.returncode}")
                if time.monotonic() > deadline:
                    raise server.failure(f"did not answer within {_READY_WITHIN_SECONDS:.0f} s")
                time.sleep(0.02)

    def _prepare(self) -> None:
        log_path = self._home.log_path("first-run")
        log_path.unlink(missing_ok=True)
        process = self._spawn(Program("first-run", ("api.first_run",), {}), log_path)
        try:
            while process.poll() is None:
                self._check_stop()
                time.sleep(0.02)
        finally:
            end(process)
        if process.returncode != 0:
            raise StackError(f"The database could not be prepared: {last_lines(log_path)}")

    def _wait_for_api(self, platform: Platform) -> None:
        deadline = time.monotonic() + _READY_WITHIN_SECONDS
        api = self._supervised["api"]
        # An answer only counts if the API's process has never failed; otherwise another program has its port.
        while api.failures or not _answers(platform.settings.api.host, platform.settings.api.port):
            self._tick()
            for role, supervised in self._supervised.items():
                if supervised.failures >= 3:
                    raise StackError(
                        f"{role} doesn't start. The end of {supervised.log_path}:\n{last_lines(supervised.log_path)}"
                    )
            if time.monotonic() > deadline:
                log = self._supervised["api"].log_path
                raise StackError(
                    f"The API is not ready after {_READY_WITHIN_SECONDS:.0f} s. The end of {log}:\n{last_lines(log)}"
                )

    def _tick(self) -> None:
        """Checks every process once. Raises StopRequested."""
        self._check_stop()
        for supervised in self._supervised.values():
            pid = supervised.pid
            ended = supervised.ended()
            if pid is not None and ended is not None:
                self._home.forget_metrics(pid)
                self._say(f"{supervised.role} ended ({ended}); starting it again. Its log: {supervised.log_path}")
            if supervised.is_due():
                try:
                    self._records.add(supervised.role, supervised.start())
                except (OSError, StackError) as error:
                    self._say(f"{supervised.role} can't be started: {error}")
        if self._watch is not None:
            self._watch.look(self._supervised.values())
        now = time.monotonic()
        if now >= self._rotate_at:
            self._rotate_at = now + _ROTATE_EVERY_SECONDS
            for supervised in self._supervised.values():
                rotate(supervised.log_path)
        if now >= self._look_at_disk_at:
            self._look_at_disk_at = now + _LOOK_AT_DISK_EVERY_SECONDS
            self._look_at_disk()
        time.sleep(_TICK_SECONDS)

    def _look_at_disk(self) -> None:
        """Tells once that the disk is full, and once that it no longer is."""
        is_full = self._home.is_nearly_full()
        if is_full and not self._is_disk_full:
            self._say(
                f"The disk of {self._home.directory} is full; deployments wait or fail until you free some space."
            )
        elif self._is_disk_full and not is_full:
            self._say("There is space on the disk again; everything continues.")
        self._is_disk_full = is_full


def _answers(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1" if host in ("0.0.0.0", "") else host, port, timeout=3)
    try:
        connection.request("GET", "/api/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
