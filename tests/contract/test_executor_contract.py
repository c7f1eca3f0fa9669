"""The contract of every executor: outcomes, limits, isolation, and clean-up."""

from __future__ import annotations

import contextlib
import http.server
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import ClassVar

import docker
import psutil
import pytest

from shared.errors import PlatformError
from shared.settings import NetworkSettings
from tests.support.executors import (
    HOST_TREES,
    MEBIBYTE,
    TIMEOUT_SECONDS,
    ExecutorKind,
    LoopbackServer,
    Output,
    control_groups,
    left_in,
    make_spec,
    processes_with,
    require_own_processes,
    run,
    unique_marker,
    wait_for,
)
from tests.support.kubernetes_cluster import left_in_cluster
from tests.support.pods_on_host import PodsOnHost
from workers.executors import base
from workers.executors.base import ExecutionResult, Executor, LocalTree, Mount, Overlay, RunOutcome

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")


def test_probe_accepts_this_host(executor: Executor) -> None:
    executor.probe()


def test_success_has_both_streams_apart(executor: Executor) -> None:
    output = Output()
    result = executor.run(make_spec("echo out; echo err >&2"), HOST_TREES, output, threading.Event())
    assert (result.outcome, result.exit_code, result.message) == (RunOutcome.SUCCESS, 0, "")
    assert (output.text("stdout"), output.text("stderr")) == (b"out\n", b"err\n")


def test_exit_code_is_the_commands(executor: Executor) -> None:
    result, _ = run(executor, "exit 3")
    assert (result.outcome, result.exit_code) == (RunOutcome.USER_ERROR, 3)
    assert "code 3" in result.message


def test_missing_program_is_the_users_error(executor: Executor) -> None:
    result, printed = run(executor, "", command=("no-such-program",))
    assert (result.outcome, result.exit_code) == (RunOutcome.USER_ERROR, 127)
    assert b"no-such-program" in printed


def test_sandbox_that_cannot_be_made_is_the_platforms_error(executor: Executor, tmp_path: Path) -> None:
    output = Output()
    spec = make_spec("true", mounts=(Mount(LocalTree(tmp_path / "missing"), "/missing"),))
    with pytest.raises(PlatformError, match="missing"):
        executor.run(spec, HOST_TREES, output, threading.Event())
    assert output.text() == b""


def test_stderr_that_looks_like_the_launchers_is_kept(executor: Executor) -> None:
    _, printed = run(executor, "echo 'bwrap: mine' >&2; exit 1")
    assert printed == b"bwrap: mine\n"


def test_killed_child_makes_the_whole_run_out_of_memory(executor: Executor) -> None:
    script = "python3 -c 'import time; a = bytearray(200 << 20); time.sleep(3600)'; exit 0"
    result, _ = run(executor, script, memory_bytes=96 * MEBIBYTE)
    assert result.outcome is RunOutcome.OUT_OF_MEMORY
    assert "96 MiB" in result.message


def test_sigkill_without_memory_pressure_is_not_out_of_memory(executor: Executor) -> None:
    result, _ = run(executor, "kill -KILL $$")
    assert (result.outcome, result.exit_code) == (RunOutcome.USER_ERROR, 137)


def test_an_init_that_is_killed_from_outside_is_the_platforms_loss(executor: Executor) -> None:
    marker = unique_marker()
    output, results = Output(), list[ExecutionResult]()
    spec = make_spec(f"sleep {marker}; echo over")
    thread = threading.Thread(target=lambda: results.append(executor.run(spec, HOST_TREES, output, threading.Event())))
    thread.start()
    wait_for(lambda: any(process.name() == "sleep" for process in processes_with(marker)))
    [inside] = [process for process in processes_with(marker) if process.name() == "sleep"]
    # The nearest: a node of a cluster may be in a namespace itself.
    init = next(above for above in [inside, *inside.parents()] if _is_init_of_a_namespace(above.pid))
    init.kill()
    thread.join(TIMEOUT_SECONDS)
    assert (results[0].outcome, results[0].exit_code) == (RunOutcome.PLATFORM_LOST, None), results
    assert processes_with(marker) == []


def _is_init_of_a_namespace(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    [numbers] = [line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")]
    return len(numbers) > 1 and numbers[-1] == "1"


@pytest.mark.parametrize("victims", ["$PPID", "-1"], ids=["the parent", "everything"])
def test_a_command_that_kills_all_it_can_ends_by_itself(executor: Executor, victims: str) -> None:
    require_own_processes(executor)
    result, _ = run(executor, f"kill -KILL {victims} $$; kill -KILL $$")
    assert (result.outcome, result.exit_code) == (RunOutcome.USER_ERROR, 137)


def test_wall_clock_limit(executor: Executor) -> None:
    result, _ = run(executor, "sleep 3600", wall_seconds=1.0)
    assert result.outcome is RunOutcome.TIMEOUT
    assert "1 seconds" in result.message


def test_term_comes_before_kill(executor: Executor) -> None:
    script = "trap 'echo tidied; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    output, cancel, results = Output(marker=b"ready"), threading.Event(), list[ExecutionResult]()
    # The kill is an hour away: what ends it is TERM.
    spec = make_spec(script, stop_seconds=3600.0)
    thread = threading.Thread(target=lambda: results.append(executor.run(spec, HOST_TREES, output, cancel)))
    thread.start()
    assert output.seen.wait(TIMEOUT_SECONDS)
    cancel.set()
    thread.join(TIMEOUT_SECONDS)
    assert [result.outcome for result in results] == [RunOutcome.CANCELLED]
    assert b"tidied" in output.text()


def test_fork_bomb_is_bounded(exact_executor: Executor) -> None:
    script = "import os, time\nn = 0\ntry:\n  while n < 5000:\n    if os.fork() == 0: time.sleep(60)\n    n += 1\n"
    script += "except OSError: print('stopped at', n, flush=True)"
    result, printed = run(exact_executor, "", command=("python3", "-c", script), process_count=40)
    assert result.outcome is RunOutcome.SUCCESS
    assert int(printed.split()[-1]) <= 40


def test_disk_filler_is_stopped(executor: Executor, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    script = "i=0; while [ $i -lt 50 ]; do head -c 4000000 /dev/zero > file$i; i=$((i+1)); sleep 0.01; done; sleep 3600"
    result, _ = run(executor, script, workspace=workspace, disk_bytes=16 * MEBIBYTE)
    assert result.outcome is RunOutcome.DISK_FULL
    assert "16 MiB" in result.message


def test_memory_file_systems_are_sized(executor: Executor) -> None:
    script = "for d in /dev/shm /tmp $HOME; do head -c 300000000 /dev/zero > $d/x && echo unbounded; rm $d/x; done"
    result, printed = run(executor, script, memory_bytes=512 * MEBIBYTE, disk_bytes=1024 * MEBIBYTE)
    assert b"unbounded" not in printed
    assert printed.count(b"No space left") == 3
    assert result.outcome is RunOutcome.SUCCESS


def test_background_processes_end_with_the_command(executor: Executor) -> None:
    marker = unique_marker()
    result, _ = run(
        executor, f"setsid sh -c 'trap \"\" TERM HUP; while :; do sleep {marker}; done' & sleep 0.2; exit 4"
    )
    assert (result.outcome, result.exit_code) == (RunOutcome.USER_ERROR, 4)
    assert processes_with(marker) == []


def test_cancel_leaves_nothing(executor: Executor) -> None:
    marker = unique_marker()
    script = f"""
    trap '' TERM INT HUP
    (setsid sh -c 'trap "" TERM INT HUP; (sleep {marker} & sleep {marker})' &)
    python3 -c 'import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
    time.sleep(600)' {marker} &
    echo ready; while :; do sleep 1; done
    """.replace("\n    ", "\n")
    output, cancel, results = Output(marker=b"ready"), threading.Event(), list[ExecutionResult]()
    spec = make_spec(script)
    thread = threading.Thread(target=lambda: results.append(executor.run(spec, HOST_TREES, output, cancel)))
    thread.start()
    assert output.seen.wait(TIMEOUT_SECONDS)
    wait_for(lambda: len(processes_with(marker)) >= 3)
    cancel.set()
    thread.join(TIMEOUT_SECONDS)
    assert processes_with(marker) == []
    assert [result.outcome for result in results] == [RunOutcome.CANCELLED]


def test_cancelled_before_the_start_runs_nothing(executor: Executor) -> None:
    cancel = threading.Event()
    cancel.set()
    output = Output()
    result = executor.run(make_spec("echo ran"), HOST_TREES, output, cancel)
    assert (result.outcome, output.text()) == (RunOutcome.CANCELLED, b"")


def test_one_long_line_arrives_whole(executor: Executor) -> None:
    _, printed = run(executor, "head -c 1000000 /dev/zero | tr '\\0' x")
    assert printed == b"x" * 1_000_000


def test_endless_output_is_cut_and_the_command_continues(executor: Executor) -> None:
    result, printed = run(executor, "yes | head -c 30000000; exit 5", output_bytes=100_000)
    assert result.exit_code == 5
    assert len(printed) < 101_000
    assert printed.count(b"limit of 100000 bytes") == 1


def test_failing_output_callback_ends_the_run(executor: Executor) -> None:
    def refuse(_stream: str, _data: bytes) -> None:
        raise ConnectionError("the log is gone")

    marker = unique_marker()
    with pytest.raises(ConnectionError, match="the log is gone"):
        executor.run(make_spec(f"echo x; sleep {marker}"), HOST_TREES, refuse, threading.Event())
    assert processes_with(marker) == []


CONNECT = """
import socket, sys
for address in sys.argv[2:]:
    try:
        socket.create_connection((address, int(sys.argv[1])), timeout=3)
        print("reached", address)
    except OSError as error:
        print("refused", address, error)
"""


@pytest.mark.parametrize("network", ["none", "proxy"])
def test_loopback_of_the_host_is_out_of_reach(
    executor: Executor, loopback_server: LoopbackServer, network: str
) -> None:
    own = [address.address for address in psutil.net_if_addrs().get("eth0", []) if address.family == socket.AF_INET]
    command = ("python3", "-c", CONNECT, str(loopback_server.port), "127.0.0.1", "::1", *own)
    result, printed = run(executor, "", command=command, network=network)
    assert result.outcome is RunOutcome.SUCCESS
    assert b"reached" not in printed
    assert loopback_server.accepted == []


PROXY_REQUEST = """
import base64, os, socket, sys, urllib.parse
url = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
password = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
header = f"Proxy-Authorization: Basic {password}\\r\\n" if url.username else ""
for address in sys.argv[1:]:
    proxy = socket.create_connection((url.hostname, url.port), timeout=120)
    proxy.sendall(f"CONNECT {address} HTTP/1.1\\r\\n{header}\\r\\n".encode())
    print(address, proxy.makefile("rb").read().decode().replace("\\r\\n", " "))
"""


def test_proxy_refuses_what_is_not_public(executor: Executor, loopback_server: LoopbackServer) -> None:
    port = loopback_server.port
    addresses = [f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", f"[::ffff:127.0.0.1]:{port}", f"0:{port}"]
    addresses += [f"2130706433:{port}", "169.254.169.254:80", "10.0.0.1:443", "[64:ff9b::a00:1]:443", "[fe80::1]:443"]
    result, printed = run(executor, "", command=("python3", "-c", PROXY_REQUEST, *addresses), network="proxy")
    assert result.outcome is RunOutcome.SUCCESS, printed
    assert printed.count(b"403 Forbidden") == len(addresses)
    assert {"169.254.169.254", "10.0.0.1", f"127.0.0.1:{port}", f"localhost:{port}"} <= set(
        result.traffic.blocked_hosts
    )
    assert loopback_server.accepted == []


HANDOVER = """
import socket
door = socket.socket(socket.AF_UNIX)
try:
    door.connect("/run/egress/proxy.sock")
    print("let in")
except OSError as error:
    print(type(error).__name__)
"""


def test_a_command_can_hand_the_proxy_nothing(executor: Executor) -> None:
    """Its way in was for one socket, which came before the command; pods have no such way."""
    result, printed = run(executor, "", command=("python3", "-c", HANDOVER), network="proxy")
    expected = b"FileNotFoundError" if isinstance(executor, PodsOnHost) else b"ConnectionRefusedError"
    assert (result.outcome, printed.strip()) == (RunOutcome.SUCCESS, expected)


def test_proxy_lets_a_package_registry_through(exact_executor: Executor) -> None:
    # A registry may leave a request unanswered; npm would wait for as long as the command may take.
    script = "npm view --fetch-timeout=30000 is-number@7.0.0 version && pip download -qq --no-deps six && echo got"
    result, printed = run(exact_executor, script, network="proxy", working_directory="/tmp")
    assert result.outcome is RunOutcome.SUCCESS, printed
    assert b"7.0.0" in printed
    assert b"got" in printed


def test_allow_list_names_what_it_blocked(tmp_path: Path, exact_kind: ExecutorKind) -> None:
    settings = NetworkSettings(egress_allowed_hosts=("packages.example.com", ".example.org"))
    script = ("python3", "-c", PROXY_REQUEST, "evil.example.net:443")
    with exact_kind.open(tmp_path / "run", settings, environment={}) as executor:
        result, printed = run(executor, "", command=script, network="proxy")
    assert b"not in the list" in printed
    assert result.traffic.blocked_hosts == ("evil.example.net",)


class _Registry(http.server.BaseHTTPRequestHandler):
    requests: ClassVar[list[tuple[str, str | None, str | None]]] = []

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers["Host"], self.headers["Proxy-Connection"]))
        self.send_response(200)
        self.send_header("Content-Length", "4000000")
        self.end_headers()
        self.wfile.write(b"r" * 4_000_000)

    def log_message(self, *args: object) -> None:
        pass


def test_allowed_network_opens_a_registry_of_ones_own(tmp_path: Path, exact_kind: ExecutorKind) -> None:
    _Registry.requests.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = server.server_port
    settings = NetworkSettings(egress_allowed_networks=("127.0.0.0/8", "::1/128"))
    script = f"""
    unset NO_PROXY no_proxy
    curl -sS http://localhost:{port}/plain?x=1 | wc -c
    curl -sS -p http://localhost:{port}/tunnel | wc -c
    curl -sS -o /dev/null -w '%{{http_code}}' http://no-such-host.invalid/
    """
    try:
        with exact_kind.open(tmp_path / "run", settings, environment={}) as executor:
            result, printed = run(executor, script, network="proxy")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert printed.split() == [b"4000000", b"4000000", b"502"]
    assert _Registry.requests == [("/plain?x=1", f"localhost:{port}", None), ("/tunnel", f"localhost:{port}", None)]
    assert result.traffic.blocked_hosts == ()
    [reached] = result.traffic.reached_hosts
    assert reached.host == f"localhost:{port}"
    assert 8_000_000 < reached.received_bytes < 8_010_000
    assert 100 < reached.sent_bytes < 2000


SYSTEM_CALLS = """
import ctypes, errno, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
x86 = platform.machine() == "x86_64"
calls = {
    "mount": (165, 40), "unshare": (272, 97), "setns": (308, 268), "pivot_root": (155, 41), "bpf": (321, 280),
    "keyctl": (250, 219), "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "ptrace": (101, 117),
    "open_tree": (428, 428), "perf_event_open": (298, 241), "kexec_load": (246, 104),
}
for name, numbers in calls.items():
    ctypes.set_errno(0)
    result = libc.syscall(numbers[0 if x86 else 1], 0, 0, 0, 0, 0, 0)
    print(name, errno.errorcode.get(ctypes.get_errno(), 0))
ctypes.set_errno(0); libc.syscall(435, 0, 0); print("clone3", errno.errorcode.get(ctypes.get_errno(), 0))
ctypes.set_errno(0); libc.syscall(56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0)
print("clone_newuser", errno.errorcode.get(ctypes.get_errno(), 0))
ctypes.set_errno(0); libc.ioctl(0, 0x5412, b"x"); print("tiocsti", errno.errorcode.get(ctypes.get_errno(), 0))
try: socket.socket(socket.AF_VSOCK); print("vsock made")
except OSError as error: print("vsock", errno.errorcode[error.errno])
"""


def test_system_calls_that_no_build_needs_are_denied(exact_executor: Executor) -> None:
    _, printed = run(exact_executor, "", command=("python3", "-c", SYSTEM_CALLS))
    answers = dict(line.split(" ", 1) for line in printed.decode().splitlines())
    assert answers.pop("clone3") == "ENOSYS"
    assert answers.pop("vsock") == "EAFNOSUPPORT"
    assert set(answers.values()) == {"EPERM"}, answers
    assert len(answers) == 14


def test_file_system_is_read_only_and_the_kernels_settings_too(executor: Executor) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    script = "for f in /x /etc/x /usr/x /opt/x /opt/bin/npm /proc/sys/kernel/core_pattern /proc/sysrq-trigger "
    script += "/proc/1/oom_score_adj /sys/kernel/mm/ksm/run /sys/fs/cgroup/cgroup.procs; "
    script += "do (echo x > $f) 2>/dev/null && echo wrote $f; done; "
    # An image has some of these of its own, closed; none is the host's.
    script += "ls -A /root /work /var/run/docker.sock /var/lib/docker 2>/dev/null; cat /etc/shadow 2>/dev/null; exit 0"
    _, printed = run(executor, script)
    assert printed == b""
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_environment_is_only_what_the_spec_says_and_hidden_from_argv(executor: Executor) -> None:
    os.environ["CLOUDIFY_CONTRACT_SECRET"] = "of-the-worker"
    try:
        script = "env; tr '\\0' ' ' < /proc/1/environ; tr '\\0' ' ' < /proc/1/cmdline"
        _, printed = run(executor, script, environment={"API_KEY": "of-the-user"})
    finally:
        del os.environ["CLOUDIFY_CONTRACT_SECRET"]
    assert b"of-the-worker" not in printed
    assert printed.count(b"of-the-user") == 1


def test_workspace_and_overlay_keep_changes(executor: Executor, tmp_path: Path) -> None:
    workspace, lower, upper = (tmp_path / name for name in ("workspace", "lower", "upper"))
    for directory in (workspace, lower, upper):
        directory.mkdir()
    (lower / "kept").write_text("kept")
    (lower / "gone").write_text("gone")
    script = "cat modules/kept; echo new > modules/new; rm modules/gone; echo built > page"
    overlay = Overlay(str(upper), "/workspace/modules", (LocalTree(lower),))
    outputs = tuple(base.Output(str(path), "tenant_1") for path in (upper, workspace))
    result, printed = run(executor, script, workspace=workspace, overlay=overlay, outputs=outputs)
    assert (result.outcome, printed) == (RunOutcome.SUCCESS, b"kept")
    assert result.outputs == {str(upper): LocalTree(upper), str(workspace): LocalTree(workspace)}
    assert (workspace / "page").read_text() == "built\n"
    assert (upper / "new").read_text() == "new\n"
    assert stat.S_ISCHR((upper / "gone").stat().st_mode)
    assert sorted(path.name for path in lower.iterdir()) == ["gone", "kept"]


def test_runs_leave_no_files_groups_mounts_and_containers(
    exact_executor: Executor, exact_kind: ExecutorKind, tmp_path: Path
) -> None:
    lower, upper = tmp_path / "lower", tmp_path / "upper"
    for directory in (lower, upper):
        directory.mkdir()
    overlay = Overlay(str(upper), "/workspace", (LocalTree(lower),))
    spec = make_spec("echo x > /workspace/x; exit 1", network="proxy", overlay=overlay)
    result = exact_executor.run(spec, HOST_TREES, Output(), threading.Event())
    assert result.exit_code == 1
    # A pod's files are stored when its command has succeeded.
    assert (upper / "x").exists() is not exact_kind.is_kubernetes
    assert left_in(tmp_path / "run") == []
    assert [path for path in control_groups() if path.name == f"cloudify-{spec.name}"] == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    if exact_kind.is_docker:
        client = docker.APIClient(base_url=exact_kind.docker_host, version="auto")
        with contextlib.closing(client):
            assert client.containers(all=True, filters={"label": f"io.cloudify.run={spec.name}"}) == []
            assert str(upper) not in str(client.volumes())
    if exact_kind.namespace is not None:
        wait_for(lambda: left_in_cluster(exact_kind.namespace) == [])


def test_runs_leave_no_descriptors_and_no_threads(executor: Executor) -> None:
    run(executor, "true", network="proxy")
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(3):
        run(executor, "exit 1", network="proxy")

    def is_no_more_than_before() -> bool:
        after = len(os.listdir("/proc/self/fd")), threading.active_count()
        return all(now <= then for now, then in zip(after, before, strict=True))

    # Fewer when something of another test ends meanwhile; a thread that has been told to end may take a moment.
    wait_for(is_no_more_than_before)


def test_runs_at_the_same_time_do_not_touch_each_other(executor: Executor) -> None:
    results: dict[int, tuple[ExecutionResult, bytes]] = {}

    def one(number: int) -> None:
        results[number] = run(executor, f"echo {number}; sleep 0.3; exit {number}", network="proxy")

    threads = [threading.Thread(target=one, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_SECONDS)
    assert {number: (r.exit_code, printed) for number, (r, printed) in results.items()} == {
        number: (number, f"{number}\n".encode()) for number in range(1, 5)
    }


def test_reap_of_a_run_that_never_was(executor: Executor) -> None:
    executor.reap("never-started")


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".hidden"])
def test_names_that_are_paths_are_refused(executor: Executor, name: str) -> None:
    with pytest.raises(ValueError, match="name a run"):
        executor.reap(name)


# A worker of its own: runs a command until it is killed. argv: runtime directory, run's name, script, executor's kind.
WORKER = """
import os, sys, threading
from pathlib import Path
from tests.support.executors import HOST_TREES, ExecutorKind
from workers.executors.base import ExecutionSpec, Limits
runtime, name, script = sys.argv[1:4]
limits = Limits(memory_bytes=512 << 20, cpu_count=1, process_count=64, disk_bytes=1 << 30, output_bytes=1 << 20,
                wall_seconds=3600, stop_seconds=1)
spec = ExecutionSpec(name, ("sh", "-c", script), "/", (), None, {}, limits, "none")
def show(stream, data):
    os.write(1, data)
with ExecutorKind.from_text(sys.argv[4]).open(Path(runtime)) as executor:
    executor.run(spec, HOST_TREES, show, threading.Event())
"""


def start_worker(kind: ExecutorKind, runtime: Path, name: str, script: str) -> subprocess.Popen[bytes]:
    arguments = [str(runtime), name, script, kind.to_text()]
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, *arguments], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"ready\n"
    return worker


def test_sigkill_of_the_worker_ends_the_sandbox(
    exact_kind: ExecutorKind, exact_executor: Executor, tmp_path: Path
) -> None:
    if exact_kind.is_kubernetes:
        pytest.skip("pods outlive their worker, and another one continues them: tests/kubernetes")
    marker = unique_marker()
    name = f"crash-{marker}"
    script = f"trap '' TERM HUP; setsid sh -c 'trap \"\" TERM HUP; sleep {marker}' & echo ready; sleep {marker}"
    worker = start_worker(exact_kind, tmp_path / "run", name, script)
    wait_for(lambda: len(processes_with(marker)) >= 4)
    worker.kill()
    worker.wait()
    assert worker.stdout is not None
    worker.stdout.close()
    wait_for(lambda: processes_with(marker) == [])
    assert (tmp_path / "run" / name).exists()
    assert exact_executor.sweep() == [name]
    exact_executor.reap(name)
    assert left_in(tmp_path / "run") == []


def test_reap_ends_a_run_whose_worker_lives(exact_kind: ExecutorKind, exact_executor: Executor, tmp_path: Path) -> None:
    marker = unique_marker()
    name = f"reap-{marker}"
    script = f"trap '' TERM; echo ready; sleep {marker}; sleep {marker}"
    worker = start_worker(exact_kind, tmp_path / "run", name, script)
    try:
        wait_for(lambda: processes_with(f"sleep {marker}") != [])
        exact_executor.reap(name)
        inside = [process for process in processes_with(marker) if process.pid != worker.pid]
        assert inside == []
        assert worker.wait(TIMEOUT_SECONDS) == 0
    finally:
        worker.kill()
        worker.wait()
        assert worker.stdout is not None
        worker.stdout.close()


# As an ordinary user: everything is imported as root, as that user may not read this interpreter.
ORDINARY = """
import dataclasses, os, sys, threading
from pathlib import Path
from shared.settings import NetworkSettings
from tests.support.executors import HOST_TREES
from workers.executors.base import ExecutionSpec, Limits
from workers.executors.bubblewrap.executor import BubblewrapExecutor
from workers.executors.toolchain import Toolchain
toolchain = Toolchain.discover()
os.mkdir(sys.argv[1])
os.chown(sys.argv[1], 65534, 65534)
os.setgroups([]); os.setgid(65534); os.setuid(65534)
executor = BubblewrapExecutor(NetworkSettings(), Path(sys.argv[1]), toolchain, host_environment={}, control_groups=None)
readable = tuple(bind for bind in toolchain.binds if os.access(bind.source, os.R_OK))
executor.toolchain = dataclasses.replace(toolchain, binds=readable)
limits = Limits(memory_bytes=256 << 20, cpu_count=1, process_count=20, disk_bytes=1 << 30, output_bytes=1 << 20,
                wall_seconds=3600, stop_seconds=1)
script = "id -u; (echo x > /usr/x) 2>/dev/null || echo closed; i=0; while [ $i -lt 60 ]; do sleep 99 & i=$((i+1)); done"
spec = ExecutionSpec("ordinary", ("sh", "-c", script), "/", (), None, {}, limits, "none")
result = executor.run(spec, HOST_TREES, lambda stream, data: os.write(1, data), threading.Event())
print(result.outcome, result.message)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user; the other tests ran as this one")
def test_an_ordinary_user_can_run_sandboxes() -> None:
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        runtime = Path(directory) / "run"
        finished = subprocess.run(
            [sys.executable, "-c", ORDINARY, str(runtime)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            cwd=Path(__file__).parents[2],
            check=False,
        )
    lines = finished.stdout.splitlines()
    assert lines[:2] == ["1000", "closed"], finished.stderr
    # Sixty children and twenty processes: the shell gives up.
    assert "Cannot fork" in finished.stdout
    assert lines[-1].startswith("user_error")
