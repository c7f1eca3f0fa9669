"""Attacks of a build on every executor: the host, its services and other builds are unharmed."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.executors import (
    HOST_TREES,
    MEBIBYTE,
    TIMEOUT_SECONDS,
    ExecutorKind,
    LoopbackServer,
    Output,
    left_in,
    make_spec,
    processes_with,
    require_own_processes,
    run,
    unique_marker,
    wait_for,
)
from workers.executors.base import ExecutionResult, Executor, LocalTree, Overlay, RunOutcome
from workers.executors.docker.backend import container_owner


class Bystander:
    """Another build of the same host: it works until it is told to end."""

    def __init__(self, executor: Executor, workspace: Path) -> None:
        self._output = Output(marker=b"working")
        self._results: list[ExecutionResult] = []
        self._marker = unique_marker()
        script = "echo working; until [ -e end ]; do sleep 0.1; done; echo built"
        spec = make_spec("", command=("sh", "-c", script, self._marker), workspace=workspace)
        self._thread = threading.Thread(
            target=lambda: self._results.append(executor.run(spec, HOST_TREES, self._output, threading.Event()))
        )
        self._thread.start()
        assert self._output.seen.wait(TIMEOUT_SECONDS)

    def finish(self) -> tuple[list[RunOutcome], bytes]:
        # By its own root: a pod's workspace is no directory of the test's.
        [process] = [each for each in processes_with(self._marker) if each.name() == "sh"]
        Path(f"/proc/{process.pid}/root/workspace/end").touch()
        self._thread.join(TIMEOUT_SECONDS)
        return [result.outcome for result in self._results], self._output.text()


@pytest.fixture(autouse=True)
def _neighbours(exact_executor: Executor, tmp_path: Path) -> Iterator[None]:
    """Another build runs during every attack, and nothing is left of either afterwards."""
    require_own_processes(exact_executor)
    workspace = tmp_path / "bystander"
    workspace.mkdir()
    workspace.chmod(0o777)
    bystander = Bystander(exact_executor, workspace)
    try:
        yield
    finally:
        ended = bystander.finish()
    assert ended == ([RunOutcome.SUCCESS], b"working\nbuilt\n")
    assert left_in(tmp_path / "run") == []
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "workspace"
    directory.mkdir()
    return directory


def test_a_fork_bomb_ends_with_its_time(exact_executor: Executor, workspace: Path) -> None:
    marker = unique_marker()
    bomb = (
        "import os, time\nwhile True:\n  try:\n    if os.fork() == 0: os.setsid()\n  except OSError: time.sleep(0.01)"
    )
    spec = make_spec("", command=("python3", "-c", bomb, marker), workspace=workspace, wall_seconds=5.0)
    result = exact_executor.run(spec, HOST_TREES, Output(), threading.Event())
    assert result.outcome is RunOutcome.TIMEOUT
    assert processes_with(marker) == []


def test_a_memory_bomb_of_many_processes_is_out_of_memory(exact_executor: Executor) -> None:
    marker = unique_marker()
    hog = "import sys, time; kept = bytearray(40 << 20); time.sleep(600)"
    script = f"for i in 1 2 3 4 5 6; do python3 -c '{hog}' {marker} & done; wait"
    result, _ = run(exact_executor, script, memory_bytes=128 * MEBIBYTE)
    assert result.outcome is RunOutcome.OUT_OF_MEMORY
    assert processes_with(marker) == []


def test_a_file_bigger_than_the_disk_limit_is_disk_full(exact_executor: Executor, workspace: Path) -> None:
    script = "head -c 900000000 /dev/zero > big; sleep 600"
    result, _ = run(exact_executor, script, workspace=workspace, disk_bytes=32 * MEBIBYTE)
    assert result.outcome is RunOutcome.DISK_FULL


MANY_NAMES = {
    "empty files": "open(f'{i // 1000}/{i}', 'w').close()",
    "directories": "os.mkdir(f'{i // 1000}/{i}')",
    "hard links": "os.link('file', f'{i // 1000}/{i}')",
    "symbolic links": "os.symlink('x', f'{i // 1000}/{i}')",
    "long names": "open(f'{i // 1000}/' + f'{i}'.ljust(250, 'x'), 'w').close()",
}


@pytest.mark.parametrize("what", MANY_NAMES)
def test_more_names_than_the_limit_are_disk_full(exact_executor: Executor, workspace: Path, what: str) -> None:
    workspace.chmod(0o777)
    made = f"""
import os, time
open("file", "w").close()
for i in range(6000):
    if i % 1000 == 0:
        os.mkdir(f"{{i // 1000}}")
    {MANY_NAMES[what]}
time.sleep(600)
"""
    command = ("python3", "-c", made)
    result, _ = run(exact_executor, "", command=command, workspace=workspace, disk_entries=5000)
    assert result.outcome is RunOutcome.DISK_FULL
    assert "files, directories and links than its limit of 5000" in result.message


def test_names_made_in_the_last_moment_are_counted(exact_executor: Executor, workspace: Path) -> None:
    workspace.chmod(0o777)
    make = "python3 -c 'import sys; [open(str(i), chr(119)).close() for i in range(*map(int, sys.argv[1:]))]'"
    script = f"{make} 0 3000; sleep 3; {make} 3000 6000"
    result, _ = run(exact_executor, script, workspace=workspace, disk_entries=5000)
    assert result.outcome is RunOutcome.DISK_FULL


def test_shared_memory_counts_and_ends_with_the_run(exact_executor: Executor) -> None:
    script = "head -c 1000000000 /dev/zero > /dev/shm/attack-filler; exit 3"
    result, printed = run(exact_executor, script)
    assert (result.outcome, result.exit_code) == (RunOutcome.USER_ERROR, 3)
    assert b"No space left" in printed
    assert "attack-filler" not in os.listdir("/dev/shm")


def test_a_grandchild_in_a_session_of_its_own_ends_with_the_cancel(exact_executor: Executor) -> None:
    marker = unique_marker()
    script = f"""
    trap '' TERM
    (setsid sh -c 'trap "" TERM INT HUP; while :; do sleep {marker}; done' &)
    echo ready; while :; do sleep {marker}; done
    """
    output, cancel, results = Output(marker=b"ready"), threading.Event(), list[ExecutionResult]()
    thread = threading.Thread(
        target=lambda: results.append(exact_executor.run(make_spec(script), HOST_TREES, output, cancel))
    )
    thread.start()
    assert output.seen.wait(TIMEOUT_SECONDS)
    wait_for(lambda: len(processes_with(f"sleep {marker}")) >= 2)
    cancel.set()
    thread.join(TIMEOUT_SECONDS)
    assert [result.outcome for result in results] == [RunOutcome.CANCELLED]
    assert processes_with(marker) == []


def test_endless_output_ends_with_its_time(exact_executor: Executor) -> None:
    result, printed = run(exact_executor, "yes endless", wall_seconds=5.0, output_bytes=MEBIBYTE)
    assert result.outcome is RunOutcome.TIMEOUT
    assert len(printed) < MEBIBYTE + 1000


def test_a_line_of_100_megabytes_is_cut(exact_executor: Executor) -> None:
    result, printed = run(exact_executor, "head -c 100000000 /dev/zero | tr '\\0' x", output_bytes=4 * MEBIBYTE)
    assert result.outcome is RunOutcome.SUCCESS
    assert 4 * MEBIBYTE <= len(printed) < 4 * MEBIBYTE + 1000


STEAL = """
const fs = require("fs"), http = require("http"), net = require("net");
const [port] = process.env.TARGET.split(",");
const proxy = new URL(process.env.HTTP_PROXY);
const password = Buffer.from(`${proxy.username}:${proxy.password}`).toString("base64");
const headers = proxy.username ? { "Proxy-Authorization": `Basic ${password}` } : {};
const seen = [];
for (const pid of fs.readdirSync("/proc").filter(name => /^[0-9]+$/.test(name)))
  try { seen.push(fs.readFileSync(`/proc/${pid}/environ`, "latin1")); } catch {}
for (const path of ["/root/.ssh", "/root/.npmrc", "/var/run/docker.sock", "/run/egress/proxy.sock/x"])
  try { seen.push(fs.readFileSync(path, "latin1")); } catch {}
const loot = seen.join("\\n").includes("of-the-worker") ? "found" : "nothing";
function through(address) {
  return new Promise(done => {
    const asked = http.request({ host: proxy.hostname, port: proxy.port, method: "CONNECT", path: address, headers });
    const say = answer => done(`${address} ${answer.statusCode}`);
    asked.on("connect", say).on("response", say).on("error", error => done(`${address} ${error.code}`)).end();
  });
}
function directly(host, port) {
  return new Promise(done => {
    const socket = net.connect({ host, port, timeout: 3000 }, () => done(`${host} REACHED`));
    socket.on("error", error => done(`${host} ${error.code}`)).on("timeout", () => done(`${host} TIMEOUT`));
  });
}
(async () => {
  console.log("loot", loot);
  for (const address of [`127.0.0.1:${port}`, `localhost:${port}`, "169.254.169.254:80", "10.0.0.1:443"])
    console.log(await through(address));
  for (const [host, port_] of [["127.0.0.1", port], ["169.254.169.254", 80], ["192.0.2.1", 443]])
    console.log(await directly(host, port_));
  process.exit(0);
})();
"""


def test_a_postinstall_script_finds_nothing_and_reaches_nobody(
    exact_executor: Executor, workspace: Path, loopback_server: LoopbackServer
) -> None:
    package = {"name": "thief", "version": "1.0.0", "scripts": {"postinstall": "node steal.js"}}
    (workspace / "package.json").write_text(json.dumps(package))
    (workspace / "steal.js").write_text(STEAL)
    workspace.chmod(0o777)
    os.environ["CLOUDIFY_CONTRACT_SECRET"] = "of-the-worker"
    try:
        result, printed = run(
            exact_executor,
            "npm install --foreground-scripts --offline --no-audit --no-fund --no-package-lock",
            workspace=workspace,
            network="proxy",
            environment={"TARGET": str(loopback_server.port), "npm_config_update_notifier": "false"},
        )
    finally:
        del os.environ["CLOUDIFY_CONTRACT_SECRET"]
    assert result.outcome is RunOutcome.SUCCESS, printed
    assert b"loot nothing" in printed
    assert printed.count(b" 403") == 4, printed
    assert b"REACHED" not in printed
    assert {"169.254.169.254", "10.0.0.1", f"127.0.0.1:{loopback_server.port}"} <= set(result.traffic.blocked_hosts)
    assert loopback_server.accepted == []


def test_links_out_of_the_tree_lead_to_nothing_of_the_host(
    exact_executor: Executor, exact_kind: ExecutorKind, workspace: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    outside.chmod(0o777)
    (outside / "secret").write_text("of-the-host")
    links = {"out": str(outside), "up": "../outside", "root": "/proc/1/root"}
    if not exact_kind.is_kubernetes:
        for name, target in links.items():
            (workspace / name).symlink_to(target)
    # No snapshot carries such links: the command of a pod makes them, and removes them before its files are stored.
    script = f"""
    {"; ".join(f"[ -L {name} ] || ln -s {target} {name}" for name, target in links.items())}
    cat out/secret up/secret root{outside}/secret {outside}/secret 2>/dev/null
    for target in out up root{outside}; do (echo x > $target/written) 2>/dev/null && echo wrote $target; done
    ln {outside}/secret here 2>/dev/null && echo linked
    rm -f {" ".join(links)}
    """
    result, printed = run(exact_executor, script, workspace=workspace)
    assert (result.outcome, printed) == (RunOutcome.SUCCESS, b"")
    assert sorted(os.listdir(outside)) == ["secret"]


def test_the_walls_of_a_run_are_out_of_its_reach(exact_executor: Executor, exact_kind: ExecutorKind) -> None:
    """Its own limits, the files the executor shows, and processes outside of its namespace."""
    script = """
    for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids/pids.max \
        /etc/passwd /run/egress/proxy.sock /run/cloudify/entry.py /opt/bin/node; do
      (echo 1 > $f) 2>/dev/null && echo wrote $f
    done
    mount -t tmpfs none /mnt 2>/dev/null && echo mounted
    ps -A 2>/dev/null | grep -c . ; ls /proc | grep -c '^[0-9]'
    grep -E '^Cap(Eff|Prm|Bnd):' /proc/self/status | grep -v '0000000000000000' || echo no capabilities
    grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr '\\n\\t' '  '
    ulimit -c
    """
    _, printed = run(exact_executor, script, network="proxy")
    assert b"wrote" not in printed
    assert b"mounted" not in printed
    assert b"no capabilities" in printed
    assert b"NoNewPrivs: 1 Seccomp: 2" in printed
    assert printed.split()[-1] == b"0"
    processes = [int(word) for word in printed.split()[:2]]
    assert max(processes) < 20, printed


INIT = """
import ctypes, os, resource, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Docker's init hands it on
def open_for(name, flags):
    os.close(os.open(f"/proc/1/{name}", flags))
def ptrace():
    if libc.ptrace(16, 1, None, None) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")
attempts = {
    "limit": lambda: resource.prlimit(1, resource.RLIMIT_CPU, (1, 1)),
    "policy": lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)),
    "affinity": lambda: os.sched_setaffinity(1, {0}),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
    "priority of the user": lambda: os.setpriority(os.PRIO_USER, 0, 19),
    "trace": ptrace,
}
for name in "oom_score_adj oom_adj mem clear_refs autogroup coredump_filter comm sched limits".split():
    attempts[name] = lambda name=name: open_for(name, os.O_WRONLY)
if sys.argv[1:] == ["docker"]:
    attempts["input"] = lambda: open_for("fd/0", os.O_WRONLY)
    attempts["memory"] = lambda: open_for("mem", os.O_RDONLY)
for name, attempt in attempts.items():
    try:
        attempt()
        print(name, "REACHED")
    except OSError:
        pass
resource.prlimit(os.getpid(), resource.RLIMIT_CPU, (100, 100))
os.sched_setaffinity(os.getpid(), os.sched_getaffinity(0))
for number in sorted(signal.valid_signals() - {signal.SIGCHLD}):
    os.kill(1, number)
sys.exit(3)
"""


def test_no_build_reaches_its_init(exact_executor: Executor, exact_kind: ExecutorKind) -> None:
    result, printed = run(exact_executor, "", command=("python3", "-c", INIT, exact_kind.name))
    assert (result.outcome, result.exit_code, printed) == (RunOutcome.USER_ERROR, 3, b"")


SET_ID = """
import ctypes, errno, os, platform, stat, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), number)
def mode_of(name):
    return stat.S_IMODE(os.lstat(name).st_mode)
is_x86 = platform.machine() == "x86_64"
mknodat, fchmodat2, openat2 = (259 if is_x86 else 33), 452, 437
here = -100
def make(path, flags, mode):
    os.close(os.open(path, flags, mode))
def unnamed(mode):
    descriptor = os.open(".", os.O_TMPFILE | os.O_RDWR, mode)
    os.link(f"/proc/self/fd/{descriptor}", "unnamed", follow_symlinks=True)
open("file", "w").close()
descriptor = os.open("file", os.O_RDWR)
os.mkdir("directory")
how = ctypes.create_string_buffer(bytes([0o101, 0, 0, 0, 0, 0, 0, 0]) + (0o4755).to_bytes(8, "little") + bytes(8))
attempts = {
    "chmod": lambda mode: os.chmod("file", mode),
    "fchmod": lambda mode: os.fchmod(descriptor, mode),
    "fchmodat2": lambda mode: call(fchmodat2, here, b"file", mode, 0),
    "chmod of a directory": lambda mode: os.chmod("directory", mode),
    "open": lambda mode: make("opened", os.O_CREAT | os.O_WRONLY, mode),
    "unnamed": unnamed,
    "mknod": lambda mode: call(mknodat, here, b"made", stat.S_IFREG | mode, 0),
    "pipe": lambda mode: os.mkfifo("pipe", mode),
    "copy": lambda mode: subprocess.run(["install", "-m", f"{mode:o}", "file", "copied"], check=True, stderr=-3),
    "openat2": lambda mode: call(openat2, here, b"opened-2", how, 24),
}
if is_x86:
    attempts["chmod by number"] = lambda mode: call(90, b"file", mode)
    attempts["fchmodat"] = lambda mode: call(268, here, b"file", mode)
    attempts["creat"] = lambda mode: call(85, b"created", mode)
    attempts["open by number"] = lambda mode: call(2, b"opened", os.O_CREAT | os.O_RDWR, mode)
    attempts["mknod by number"] = lambda mode: call(133, b"made", stat.S_IFREG | mode, 0)
for name, attempt in attempts.items():
    for mode in (0o4755, 0o2755, 0o6711):
        try:
            attempt(mode)
            print(name, oct(mode), "MADE")
        except OSError as error:
            if error.errno != (errno.ENOSYS if name == "openat2" else errno.EPERM):
                print(name, oct(mode), error)
        except subprocess.CalledProcessError:
            pass
for name in ("capability", "copied"):
    open(name, "w").close()
try:
    os.setxattr("capability", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    print("capability MADE")
except PermissionError:
    pass
os.mkdir("plain", 0o6755)
found = [name for name in os.listdir(".") if mode_of(name) & 0o6000]
print("found", found)
os.chmod("file", 0o755)
os.chmod("directory", 0o1777)
make("sticky", os.O_CREAT | os.O_WRONLY, 0o1644)
"""


def _set_id_files(directory: Path) -> list[str]:
    return [str(path) for path in directory.rglob("*") if path.lstat().st_mode & 0o6000]


def test_no_file_that_runs_as_its_owner_can_be_made(
    exact_executor: Executor, exact_kind: ExecutorKind, workspace: Path
) -> None:
    workspace.chmod(0o777)
    result, printed = run(exact_executor, "", command=("python3", "-c", SET_ID), workspace=workspace)
    assert (result.outcome, printed) == (RunOutcome.SUCCESS, b"found []\n")
    assert _set_id_files(workspace) == []
    # A pod's files come as a snapshot, which carries permissions only.
    kept = 0o777 if exact_kind.is_kubernetes else 0o1777
    assert stat.S_IMODE((workspace / "directory").stat().st_mode) == kept


@pytest.mark.parametrize("script", ["true", "exit 3", "head -c 90000000 /dev/zero > big; sleep 600"])
def test_no_file_that_runs_as_its_owner_is_left(
    exact_executor: Executor, exact_kind: ExecutorKind, workspace: Path, tmp_path: Path, script: str
) -> None:
    """However the run ends, and where a directory hands its group on."""
    if exact_kind.is_kubernetes:
        pytest.skip("a snapshot carries no such bits, neither into a pod nor out of it")
    outside = tmp_path / "outside"
    outside.touch()
    shell = workspace / "deep" / "shell"
    shell.parent.mkdir()
    shell.touch()
    (workspace / "link").symlink_to(outside)
    if exact_kind.is_docker:
        container_owner().give_tree(workspace)
    for path in (workspace, shell.parent, shell, outside):
        path.chmod(0o6755)
    layer, upper = tmp_path / "layer", tmp_path / "upper"
    for directory in (layer, upper):
        directory.mkdir()
    upper.chmod(0o6755)
    overlay = Overlay(str(upper), "/merged", (LocalTree(layer),))
    run(exact_executor, f"mkdir /merged/inherits; {script}", workspace=workspace, overlay=overlay)
    assert (upper / "inherits").is_dir()
    assert _set_id_files(workspace) + _set_id_files(upper) == []
    assert stat.S_IMODE(shell.stat().st_mode) == 0o755
    assert not (workspace.stat().st_mode | upper.stat().st_mode) & 0o6000
    # A link's target is not of the build.
    assert stat.S_IMODE(outside.stat().st_mode) == 0o6755


WRITABLE = """
import json, os
mounts = {}
for line in open("/proc/self/mountinfo"):
    fields = line.split()
    point, kind = fields[4], fields[fields.index("-") + 1]
    status = os.statvfs(point)
    if os.path.isdir(point) and os.access(point, os.W_OK):
        mounts[point] = [kind, status.f_blocks * status.f_frsize]
found = []
for parent, names, _ in os.walk("/"):
    if parent != "/" and (parent in mounts or parent in ("/proc", "/sys", "/usr", "/opt")):
        names.clear()
        continue
    paths = [os.path.join(parent, name) for name in names]
    # /dev/fd leads to a directory of /proc, which says that it can be written to, but takes no file.
    found += [path for path in paths if os.access(path, os.W_OK) and not os.path.islink(path)]
for parent in "/ /dev /run /run/egress /var /var/tmp /etc /opt /usr /sys /proc/sys/kernel".split():
    try:
        open(parent + "/filler", "w").close()
        found.append(parent + "/filler")
    except OSError:
        pass
for name in ("null", "zero", "full", "random", "urandom", "tty"):
    try:
        os.chmod("/dev/" + name, 0o600)
        found.append("/dev/" + name)
    except OSError:
        pass
open("/dev/null", "w").write("x")
os.openpty()
print(json.dumps({"mounts": mounts, "found": sorted(set(found))}))
"""
# Message queues: RLIMIT_MSGQUEUE bounds their bytes.
UNSIZED = {"/dev/mqueue": "mqueue"}


def test_every_place_that_can_be_written_to_has_a_bound(
    exact_executor: Executor, exact_kind: ExecutorKind, workspace: Path
) -> None:
    workspace.chmod(0o777)
    memory = 256 * MEBIBYTE
    device = os.lstat("/dev/null")
    command = ("python3", "-c", WRITABLE)
    _, printed = run(exact_executor, "", command=command, workspace=workspace, memory_bytes=memory, network="proxy")
    seen = json.loads(printed)
    assert os.lstat("/dev/null").st_mode == device.st_mode
    places = seen["mounts"]
    assert places.pop("/workspace")[0] != "tmpfs"  # watched
    for point, kind in UNSIZED.items():
        assert places.pop(point, [kind])[0] == kind
    # The pseudo-terminals' own: no file can be made there.
    assert places.pop("/dev/pts", ["devpts"])[0] == "devpts"
    assert {point: kind for point, (kind, _) in places.items()} == dict.fromkeys(
        ("/tmp", "/home/build", "/dev/shm"), "tmpfs"
    )
    assert all(0 < size <= memory // 2 for _, size in places.values())
    assert set(seen["found"]) <= {*places, *UNSIZED, "/workspace", "/dev/pts"}
