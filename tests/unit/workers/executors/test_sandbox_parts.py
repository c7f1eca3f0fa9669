"""The parts of the sandbox that need no process: filter, groups, disk count, output, environment, process identity."""

from __future__ import annotations

import dataclasses
import errno
import os
import struct
import threading
from pathlib import Path

import pytest

from shared.errors import PlatformError
from shared.settings import NetworkSettings
from workers.executors import disk_usage
from workers.executors.base import ExecutionSpec, Limits
from workers.executors.cgroups import ControlGroups, MemoryEvents, discover_control_groups
from workers.executors.disk_usage import measure
from workers.executors.disk_watchdog import DiskWatchdog
from workers.executors.environment import build_environment, gather_certificates, registry_environment
from workers.executors.output_pump import OutputPump
from workers.executors.process_tree import ProcessIdentity
from workers.executors.run_record import RunRecord
from workers.executors.seccomp import build_filter
from workers.executors.toolchain import Toolchain

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X86, ARM, I386 = 0xC000003E, 0xC00000B7, 0x40000003
LIMITS = Limits(memory_bytes=64 << 20, cpu_count=1.5, process_count=7, disk_bytes=1, output_bytes=1, wall_seconds=1)


def evaluate(program: bytes, architecture: int, number: int, *arguments: int) -> int:
    """Runs the classic BPF program as the kernel would (only the instructions that the filter uses)."""
    padded = [*arguments, *([0] * (6 - len(arguments)))]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    accumulator, position = 0, 0
    while True:
        code, if_true, if_false, operand = struct.unpack_from("=HBBI", program, position * 8)
        position += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, operand)[0]
        elif code == 0x06:
            return int(operand)
        else:
            met = {
                0x15: accumulator == operand,
                0x35: accumulator >= operand,
                0x45: bool(accumulator & operand),
            }[code]
            position += if_true if met else if_false


@pytest.mark.parametrize(
    ("machine", "architecture", "calls"),
    [
        ("x86_64", X86, {"read": 0, "mount": 165, "clone": 56, "ioctl": 16, "socket": 41}),
        ("aarch64", ARM, {"read": 63, "mount": 40, "clone": 220, "ioctl": 29, "socket": 198}),
    ],
)
def test_filter_by_architecture(machine: str, architecture: int, calls: dict[str, int]) -> None:
    program = build_filter(machine)
    denied = ERRNO | errno.EPERM
    assert evaluate(program, architecture, calls["read"]) == ALLOW
    assert evaluate(program, architecture, calls["mount"]) == denied
    assert evaluate(program, architecture, 435) == ERRNO | errno.ENOSYS
    assert evaluate(program, architecture, calls["clone"], 0x01200011) == ALLOW  # what fork() asks for
    assert evaluate(program, architecture, calls["clone"], 0x003D0F00) == ALLOW  # what pthread_create() asks for
    for flag in (0x10000000, 0x20000000, 0x40000000, 0x00020000, 0x08000000, 0x04000000, 0x02000000):
        assert evaluate(program, architecture, calls["clone"], flag | 17) == denied
    assert evaluate(program, architecture, calls["ioctl"], 0, 0x5412) == denied
    assert evaluate(program, architecture, calls["ioctl"], 0, 0x5412 | 1 << 32) == denied
    assert evaluate(program, architecture, calls["ioctl"], 0, 0x5401) == ALLOW
    assert evaluate(program, architecture, calls["socket"], 2) == ALLOW
    assert evaluate(program, architecture, calls["socket"], 40) == ERRNO | errno.EAFNOSUPPORT
    assert evaluate(program, I386, calls["read"]) == KILL


@pytest.mark.parametrize(
    ("machine", "architecture", "mode_at", "flags_at"),
    [
        (
            "x86_64",
            X86,
            {90: 1, 91: 1, 268: 2, 452: 2, 85: 1, 133: 1, 259: 2},
            {2: 1, 257: 2},
        ),
        ("aarch64", ARM, {52: 1, 53: 2, 452: 2, 33: 2}, {56: 2}),
    ],
)
def test_filter_refuses_modes_that_change_who_runs_a_file(
    machine: str, architecture: int, mode_at: dict[int, int], flags_at: dict[int, int]
) -> None:
    program = build_filter(machine)
    denied = ERRNO | errno.EPERM
    for number, place in mode_at.items():
        for mode in (0o4755, 0o2755, 0o6000, 0o104755, 0o4755 | 1 << 32):
            assert evaluate(program, architecture, number, *[0] * place, mode) == denied
        for mode in (0, 0o644, 0o1777, 0o777, 1 << 35 | 0o755):
            assert evaluate(program, architecture, number, *[0o7777] * place, mode) == ALLOW
    for number, place in flags_at.items():
        for flags in (os.O_CREAT, os.O_CREAT | os.O_WRONLY | os.O_EXCL, os.O_TMPFILE):
            assert evaluate(program, architecture, number, *[0o7777] * place, flags, 0o4755) == denied
            assert evaluate(program, architecture, number, *[0o7777] * place, flags, 0o755) == ALLOW
        # Without a file to be made the mode is whatever the register holds.
        assert evaluate(program, architecture, number, *[0] * place, os.O_RDWR | os.O_DIRECTORY, 0o4755) == ALLOW
    assert evaluate(program, architecture, 437, 0, 0, 0, 0) == ERRNO | errno.ENOSYS


@pytest.mark.parametrize(
    ("machine", "architecture", "process_at", "denied"),
    [
        ("x86_64", X86, {302: 0, 142: 0, 144: 0, 314: 0, 203: 0, 141: 1, 251: 1}, (101, 311, 312, 440, 448, 256, 279)),
        ("aarch64", ARM, {261: 0, 118: 0, 119: 0, 274: 0, 122: 0, 140: 1, 30: 1}, (117, 271, 272, 440, 448, 238, 239)),
    ],
)
def test_filter_lets_no_build_change_its_init(
    machine: str, architecture: int, process_at: dict[int, int], denied: tuple[int, ...]
) -> None:
    program = build_filter(machine)
    for number, place in process_at.items():
        for pid in (1, 1 | 1 << 32):
            assert evaluate(program, architecture, number, *[0] * place, pid) == ERRNO | errno.EPERM
        # 0 is a process for setpriority, 1 for ioprio_set; the others are a group's and a user's.
        kind = 0 if number in (141, 140) else 1
        for pid in (0, 2, 0xFFFFFFFF):
            assert evaluate(program, architecture, number, *[kind] * place, pid) == ALLOW
            if place:
                for other in {0, 1, 2, 3, 1 << 31} - {kind}:
                    assert evaluate(program, architecture, number, other, pid) == ERRNO | errno.EPERM
    assert [evaluate(program, architecture, number) for number in denied] == [ERRNO | errno.EPERM] * len(denied)


def test_filter_closes_the_x32_numbers() -> None:
    assert evaluate(build_filter("x86_64"), X86, 0x40000000 | 165) == ERRNO | errno.EPERM


def test_no_filter_means_no_sandbox() -> None:
    with pytest.raises(PlatformError, match="riscv64"):
        build_filter("riscv64")


def test_a_link_that_comes_to_a_directorys_place_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched, outside = tmp_path / "watched", tmp_path / "outside"
    (watched / "a/b").mkdir(parents=True)
    (outside / "b/c/d").mkdir(parents=True)
    open_directory = disk_usage.open_directory

    def swapping(name: str) -> int:
        if name == str(watched / "a/b"):
            (watched / "a").rename(watched / "former")
            (watched / "a").symlink_to(outside)
        return open_directory(name)

    monkeypatch.setattr(disk_usage, "open_directory", swapping)
    assert measure([watched]).entries == 2


def test_version_two_group_writes_the_limits_and_reads_the_events(tmp_path: Path) -> None:
    group = ControlGroups({"unified": tmp_path}).group("run")
    group.create()
    directory = tmp_path / "cloudify-run"
    (directory / "memory.swap.max").touch()
    group.configure(LIMITS)
    written = {path.name: path.read_text() for path in directory.iterdir()}
    assert written == {
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "7",
        "cpu.max": "150000 100000",
    }
    (directory / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n")
    (directory / "memory.peak").write_text("67108864\n")
    assert group.memory_events() == MemoryEvents(kills=3, is_at_limit=True)
    assert group.peak_memory_bytes() == 67108864


def test_version_one_group_tells_its_own_limit_from_the_hosts(tmp_path: Path) -> None:
    parents = {name: tmp_path / name for name in ("memory", "pids", "cpu")}
    for parent in parents.values():
        parent.mkdir()
    group = ControlGroups(parents).group("run")
    group.create()
    group.configure(LIMITS)
    memory = parents["memory"] / "cloudify-run"
    assert (memory / "memory.limit_in_bytes").read_text() == str(64 << 20)
    assert (parents["cpu"] / "cloudify-run/cpu.cfs_quota_us").read_text() == "150000"
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    (memory / "memory.max_usage_in_bytes").write_text(str((64 << 20) - 4096))
    assert group.memory_events() == MemoryEvents(kills=2, is_at_limit=True)
    (memory / "memory.max_usage_in_bytes").write_text(str(8 << 20))
    assert group.memory_events() == MemoryEvents(kills=2, is_at_limit=False)


def test_a_host_without_groups_gives_none(tmp_path: Path) -> None:
    assert discover_control_groups("0::/user.slice\n", tmp_path) is None
    assert discover_control_groups("4:memory:/\n", tmp_path) is None


def test_removing_a_group_that_never_was(tmp_path: Path) -> None:
    assert ControlGroups({"unified": tmp_path}).group("run").remove()


def test_disk_count_sees_blocks_not_holes_and_links_once(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    before = measure([tmp_path])
    (tmp_path / "deep/file").write_bytes(os.urandom(1 << 20))
    os.link(tmp_path / "deep/file", tmp_path / "link")
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 30)
    (tmp_path / "out").symlink_to("/usr")
    after = measure([tmp_path])
    assert 1 << 20 <= after.size_bytes - before.size_bytes < 2 << 20
    # Each name counts: the file, its link, the hole, the symbolic link.
    assert after.entries - before.entries == 4


def test_disk_watchdog_raises_its_flag(tmp_path: Path) -> None:
    watchdog = DiskWatchdog((tmp_path,), 1 << 20, 100)
    (tmp_path / "file").write_bytes(os.urandom(2 << 20))
    assert watchdog.exceeded.wait(120)
    assert not watchdog.has_too_many_entries
    watchdog.close()


def test_disk_watchdog_counts_names_without_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    watchdog = DiskWatchdog((tmp_path,), 1 << 30, 100)
    for number in range(99):
        os.link(tmp_path / "file", tmp_path / str(number))
    assert watchdog.measure().entries == 100
    assert watchdog.is_near_limit
    assert not watchdog.exceeded.is_set()
    (tmp_path / "link").symlink_to("nowhere")
    assert watchdog.exceeded.wait(120)
    assert watchdog.has_too_many_entries
    watchdog.close()


def test_disk_count_ends_at_its_bound(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / str(number)).touch()
    assert measure([tmp_path], most_entries=10).entries == 11


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every directory")
def test_disk_count_looks_into_directories_that_are_shut(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir()
    (tmp_path / "shut/file").write_bytes(os.urandom(1 << 20))
    (tmp_path / "shut").chmod(0o300)
    assert measure([tmp_path]).size_bytes >= 1 << 20


def pump(limit: int, stdout: bytes, stderr: bytes, *, did_start: bool) -> tuple[OutputPump, list[tuple[str, bytes]]]:
    pipes = [os.pipe(), os.pipe()]
    seen: list[tuple[str, bytes]] = []
    output = OutputPump(pipes[0][0], pipes[1][0], limit, lambda stream, data: seen.append((stream, data)))
    for (_, writer), data in zip(pipes, (stdout, stderr), strict=True):
        os.write(writer, data)
        os.close(writer)
    output.finish(did_start=did_start)
    return output, seen


def test_output_is_cut_at_the_limit_with_one_notice() -> None:
    _, seen = pump(4, b"123456789", b"", did_start=True)
    assert seen[0] == ("stdout", b"1234")
    assert seen[1][0] == "stderr"
    assert b"limit of 4 bytes" in seen[1][1]
    assert len(seen) == 2


@pytest.mark.parametrize("did_start", [True, False])
def test_the_launchers_own_words_are_kept_from_the_log(did_start: bool) -> None:
    output, seen = pump(1000, b"", b"bwrap: Can't find source path /srv/x\n", did_start=did_start)
    assert output.held.startswith(b"bwrap: Can't")
    assert bool(seen) is did_start


def test_output_ends_although_somebody_holds_the_pipe() -> None:
    (stdout, writer), (stderr, other) = os.pipe(), os.pipe()
    output = OutputPump(stdout, stderr, 10, lambda stream, data: None)
    os.close(other)
    output.finish(did_start=True, grace_seconds=0.05)
    os.close(writer)
    assert "sandbox-output" not in [thread.name for thread in threading.enumerate()]


def toolchain() -> Toolchain:
    return Toolchain((), {}, "/opt/bin:/usr/bin", {}, "/usr/bin/python3", "24.0.0", "11.0.0", "3.11.0", "0.9.0")


def test_environment_takes_registries_only_where_there_is_a_network() -> None:
    spec = ExecutionSpec("n", ("true",), "/", (), None, {"CI": "false"}, LIMITS, "none")
    host = {"PIP_INDEX_URL": "https://packages.example.com/simple", "AWS_SECRET_ACCESS_KEY": "x", "PATH": "/host"}
    closed = build_environment(spec, toolchain(), host, has_certificates=True)
    assert closed["CI"] == "false"
    assert closed["PATH"] == "/opt/bin:/usr/bin"
    assert not {"PIP_INDEX_URL", "HTTPS_PROXY", "AWS_SECRET_ACCESS_KEY"} & set(closed)
    opened = build_environment(dataclasses.replace(spec, network="proxy"), toolchain(), host, has_certificates=False)
    assert opened["PIP_INDEX_URL"] == "https://packages.example.com/simple"
    assert opened["HTTPS_PROXY"] == opened["npm_config_proxy"] == "http://127.0.0.1:3128"
    assert "AWS_SECRET_ACCESS_KEY" not in opened
    assert "SSL_CERT_FILE" not in opened


def test_every_package_manager_gets_the_registries_of_the_settings() -> None:
    settings = NetworkSettings(
        npm_registry="https://npm.example.com/", python_index="https://python.example.com/simple"
    )
    host = {
        "NPM_CONFIG_REGISTRY": "https://other.example.com/",
        "UV_INDEX": "https://more.example.com",
        "HOME": "/root",
    }
    told = registry_environment(settings, host)
    # npm and yarn 1, pnpm from 11 on, yarn from 2 on, bun, corepack.
    for name in (
        *("npm_config_registry", "NPM_CONFIG_REGISTRY", "pnpm_config_registry"),
        *("YARN_NPM_REGISTRY_SERVER", "BUN_CONFIG_REGISTRY", "COREPACK_NPM_REGISTRY"),
    ):
        assert told.pop(name) == "https://npm.example.com/"
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIPENV_PYPI_MIRROR"):
        assert told.pop(name) == "https://python.example.com/simple"
    assert told == {"UV_INDEX": "https://more.example.com"}
    assert registry_environment(NetworkSettings(), host) == {name: host[name] for name in host if name != "HOME"}


def test_certificates_of_the_settings_join_those_of_the_host(tmp_path: Path) -> None:
    of_host, more = tmp_path / "host.pem", tmp_path / "more.pem"
    of_host.write_text("host")
    more.write_text("more\n")
    environment = {"SSL_CERT_FILE": str(of_host)}
    assert gather_certificates(NetworkSettings(), environment, tmp_path / "run") == of_host
    for _ in range(2):
        joined = gather_certificates(NetworkSettings(ca_bundle=more), environment, tmp_path / "run")
        assert joined is not None
        assert joined.read_text() == "host\nmore\n"
        assert [path.name for path in (tmp_path / "run").iterdir()] == [joined.name]
    with pytest.raises(PlatformError, match="CLOUDIFY_CA_BUNDLE"):
        gather_certificates(NetworkSettings(ca_bundle=tmp_path / "absent"), environment, tmp_path / "run")


def test_a_record_survives_and_a_reused_pid_is_not_taken_for_the_process(tmp_path: Path) -> None:
    me = ProcessIdentity.find(os.getpid())
    assert me is not None
    assert me.is_alive
    other = ProcessIdentity(me.pid, me.started - 1)
    assert not other.is_alive
    for record in (RunRecord(me), RunRecord(me, other, me)):
        record.write(tmp_path)
        assert RunRecord.read(tmp_path) == record


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"boot_id": "of another boot", "run": {"worker": {"pid": 1, "started": 1}}}']
)
def test_records_that_say_nothing(tmp_path: Path, content: str) -> None:
    assert RunRecord.read(tmp_path) is None
    (tmp_path / "run.json").write_text(content)
    assert RunRecord.read(tmp_path) is None
