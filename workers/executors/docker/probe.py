"""Checks that a Docker daemon and its builder image can run builds, and says what to do if they can't."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from pathlib import Path
from typing import Any

from shared.errors import PlatformError
from workers.executors.attachments import DirectoryTrees
from workers.executors.base import Directory, ExecutionSpec, Executor, Limits, LocalTree, Overlay, RunOutcome
from workers.executors.docker.connection import MINIMUM_API_VERSION, DockerConnection
from workers.filesystem.ownership import Owner

_log = logging.getLogger(__name__)
_MEBIBYTE = 1024 * 1024
_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}
_LIMITS = {"MemoryLimit": "memory", "PidsLimit": "processes", "CpuCfsQuota": "CPU"}
_PROBE_LIMITS = Limits(
    memory_bytes=256 * _MEBIBYTE,
    cpu_count=1,
    process_count=64,
    disk_bytes=_MEBIBYTE,
    output_bytes=64 * 1024,
    wall_seconds=120,
    stop_seconds=1,
)
_SCRIPT = """
set -e
[ "$(id -u)" = "$1" ]
[ "$(cat /workspace/below)" = seen ]
echo written > /workspace/above
rm /workspace/below
echo written > /probe/written
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Daemon:
    processors: int
    machine: str


def check_daemon(connection: DockerConnection, image: str) -> Daemon:
    """Raises PlatformError with instructions for an unsuitable daemon or image."""
    where = f"The Docker daemon at {connection.host}"
    if connection.is_too_old:
        raise PlatformError(
            f"{where} speaks API {connection.api_version}; Cloudify needs {MINIMUM_API_VERSION} (Docker Engine 20.10)"
            " or newer: update it."
        )
    info = connection.info()
    if info.get("OSType") != "linux" or info.get("Architecture") not in _MACHINES:
        raise PlatformError(f"{where} runs on {info.get('OSType')}/{info.get('Architecture')}; builds need Linux.")
    security = [str(option) for option in info.get("SecurityOptions") or ()]
    for option, what in (("name=rootless", "runs rootless"), ("name=userns", "remaps user ids")):
        if any(option in found for found in security):
            raise PlatformError(
                f"{where} {what}, so builds could not write into the worker's directories. Use a daemon that does not"
                " (CLOUDIFY_DOCKER_HOST), or CLOUDIFY_EXECUTOR=bubblewrap, which needs no daemon."
            )
    if not any("seccomp" in found for found in security):
        raise PlatformError(f"{where} filters no system calls: run it on a kernel with CONFIG_SECCOMP_FILTER.")
    _check_limits(where, info)
    machine = _MACHINES[str(info["Architecture"])]
    found = connection.image(image)
    if _MACHINES.get(str(found.get("Architecture"))) != machine:
        raise PlatformError(
            f"{image} is made for {found.get('Architecture')}, the Docker daemon's machine is {machine}: build it"
            " there."
        )
    return Daemon(int(info["NCPU"]), machine)


def _check_limits(where: str, info: dict[str, Any]) -> None:
    missing = [what for name, what in _LIMITS.items() if not info.get(name)]
    if missing:
        raise PlatformError(
            f"{where} can't limit {' and '.join(missing)}: its kernel lacks these control groups. Boot the host with"
            " cgroup_enable=memory swapaccount=1, or with systemd and cgroup version 2, and look at the warnings of"
            " `docker info`. Builds never run without limits."
        )
    if not info.get("SwapLimit"):
        _log.warning(
            "%s can't limit swap: builds may use it beyond their memory. Boot the host with swapaccount=1, or use no"
            " swap.",
            where,
        )


def check_sandbox(executor: Executor, directory: Path, owner: Owner) -> None:
    """Runs a command with every option; `directory` is empty. Raises PlatformError with instructions."""
    lower = directory / "lower"
    lower.mkdir()
    (lower / "below").write_text("seen")
    # As every tree that a build is shown: the worker's own files are for itself alone.
    owner.give_tree(lower)
    spec = ExecutionSpec(
        name=f"probe-{os.getpid()}-{threading.get_ident()}",
        command=("/bin/sh", "-c", _SCRIPT, "probe", str(owner.uid)),
        working_directory="/",
        mounts=(),
        overlay=Overlay("upper", "/workspace", (LocalTree(lower),)),
        directories=(Directory("bound", "/probe"),),
        environment={},
        limits=_PROBE_LIMITS,
        network="proxy",
    )
    printed: list[bytes] = []
    try:
        result = executor.run(spec, DirectoryTrees(directory), lambda _, data: printed.append(data), threading.Event())
    except PlatformError as error:
        raise PlatformError(
            f"{error} Does the daemon see {directory.parent} at the same place as the worker? Where the worker is a"
            " container itself, mount CLOUDIFY_HOME at the same path in both; its file system must not be an overlay."
        ) from error
    is_seen = (directory / "bound" / "written").exists() and (directory / "upper" / "above").exists()
    if result.outcome is not RunOutcome.SUCCESS or not is_seen:
        said = b"".join(printed).decode(errors="replace").strip()
        raise PlatformError(
            f"A container can be made but does not work: {result.message} {said} Does the daemon see"
            f" {directory.parent} at the same place as the worker?"
        )
