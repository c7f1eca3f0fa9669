"""The container's configuration: limits, identity, file system and network."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import PlatformError
from workers.egress import listener as egress_listener
from workers.executors.attachments import Attachments
from workers.executors.base import ExecutionSpec
from workers.executors.docker import entry as docker_entry
from workers.executors.layout import (
    CA_BUNDLE,
    EGRESS_DIRECTORY,
    FILE_SIZE_MARGIN,
    HOME,
    SHARED_MEMORY_BYTES,
)
from workers.executors.mounts import OverlayMount
from workers.filesystem.ownership import Owner

LABEL = "io.cloudify."
_RUN_DIRECTORY = "/run/cloudify"
_SMALLEST_MEMORY_FILES = 16 * 1024 * 1024
_OPEN_FILES = 4096
# mount(2) takes one page of options.
_MOUNT_OPTIONS_BYTES = 4095


def write_run_files(directory: Path, owner: Owner, filter_program: bytes, certificates: Path | None) -> None:
    """Writes the files that are mounted read-only into the container to `directory`.

    They are copies: the daemon sees the worker's home, but perhaps not its installation.
    """
    passwd = f"root:x:0:0:root:/root:/bin/sh\nbuild:x:{owner.uid}:{owner.gid}:build:{HOME}:/bin/sh\n"
    (directory / "passwd").write_text(passwd)
    (directory / "group").write_text(f"root:x:0:\nbuild:x:{owner.gid}:\n")
    (directory / "filter").write_bytes(filter_program)
    shutil.copyfile(docker_entry.__file__, directory / "entry.py")
    shutil.copyfile(egress_listener.__file__, directory / "listener.py")
    if certificates is not None:
        shutil.copyfile(certificates, directory / "certificates")
    for path in directory.iterdir():
        path.chmod(0o644)


def container_configuration(
    spec: ExecutionSpec,
    attachments: Attachments,
    directory: Path,
    owner: Owner,
    image: str,
    python: str,
    processors: int,
    labels: Mapping[str, str],
) -> dict[str, Any]:
    """The body of `POST /containers/create`. `directory` is the run's, with its files in it.

    Command and environment are not in it: entry.py reads them.
    """
    return {
        "Image": image,
        "User": f"{owner.uid}:{owner.gid}",
        "Hostname": "build",
        "Entrypoint": [python],
        "Cmd": ["-I", "-S", f"{_RUN_DIRECTORY}/entry.py", f"{_RUN_DIRECTORY}/filter"],
        "Env": [],
        "WorkingDir": "/",
        "Labels": {f"{LABEL}{name}": value for name, value in labels.items()},
        "Tty": False,
        "OpenStdin": True,
        # When the worker's connection ends, so does the input, and entry.py then kills everything inside.
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "NetworkDisabled": True,
        "StopTimeout": 10,
        "HostConfig": _host_configuration(spec, attachments, directory, owner, processors),
    }


def cleaning_configuration(scratch: Path, image: str) -> dict[str, Any]:
    """A container that empties an overlay's scratch directory: overlayfs leaves files that only root can delete."""
    return {
        "Image": image,
        "User": "0:0",
        "Entrypoint": ["/bin/rm"],
        "Cmd": ["-rf", "/scratch/work"],
        "NetworkDisabled": True,
        "HostConfig": {
            "NetworkMode": "none",
            "CapDrop": ["ALL"],
            "CapAdd": ["DAC_OVERRIDE"],
            "SecurityOpt": ["no-new-privileges"],
            "ReadonlyRootfs": True,
            "LogConfig": {"Type": "none"},
            "Mounts": [_bind(scratch, "/scratch", is_writable=True)],
        },
    }


def _host_configuration(
    spec: ExecutionSpec, attachments: Attachments, directory: Path, owner: Owner, processors: int
) -> dict[str, Any]:
    limits = spec.limits
    largest = limits.disk_bytes + FILE_SIZE_MARGIN
    return {
        # entry.py is the init.
        "Init": False,
        "NetworkMode": "none",
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,
        "NanoCpus": int(min(limits.cpu_count, processors) * 1_000_000_000),
        "PidsLimit": limits.process_count,
        "Ulimits": [
            {"Name": "core", "Soft": 0, "Hard": 0},
            {"Name": "nofile", "Soft": _OPEN_FILES, "Hard": _OPEN_FILES},
            {"Name": "fsize", "Soft": largest, "Hard": largest},
        ],
        "ShmSize": min(SHARED_MEMORY_BYTES, limits.memory_bytes),
        "Tmpfs": _memory_file_systems(spec, attachments, owner),
        "Mounts": _mounts(spec, attachments, directory),
        # The output comes by the attached connection; kept by the daemon it would fill its disk.
        "LogConfig": {"Type": "none"},
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
    }


def _memory_file_systems(spec: ExecutionSpec, attachments: Attachments, owner: Owner) -> dict[str, str]:
    size = max(spec.limits.memory_bytes // 2, _SMALLEST_MEMORY_FILES)
    options = f"rw,exec,nosuid,nodev,size={size}"
    wanted = {
        "/tmp": f"{options},mode=1777",  # noqa: S108 - a path inside the container
        HOME: f"{options},mode=0700,uid={owner.uid},gid={owner.gid}",
    }
    taken = {bind.target for bind in attachments.binds}
    return {target: text for target, text in wanted.items() if target not in taken}


def _mounts(spec: ExecutionSpec, attachments: Attachments, directory: Path) -> list[dict[str, Any]]:
    shown = {
        "passwd": "/etc/passwd",
        "group": "/etc/group",
        "entry.py": f"{_RUN_DIRECTORY}/entry.py",
        "filter": f"{_RUN_DIRECTORY}/filter",
        "certificates": CA_BUNDLE,
    }
    if spec.network == "proxy":
        shown |= {name: f"{EGRESS_DIRECTORY}/{name}" for name in ("proxy.sock", "listener.py")}
    mounts = [_bind(directory / name, target) for name, target in shown.items() if (directory / name).exists()]
    mounts += [_bind(bind.source, bind.target, is_writable=bind.is_writable) for bind in attachments.binds]
    if attachments.overlay is not None:
        mounts.append(_overlay(attachments.overlay))
    return mounts


def _bind(source: Path, target: str, *, is_writable: bool = False) -> dict[str, Any]:
    return {"Type": "bind", "Source": str(source), "Target": target, "ReadOnly": not is_writable}


def _overlay(overlay: OverlayMount) -> dict[str, Any]:
    """An anonymous volume: the daemon mounts it when the container starts and deletes it with the container.

    `userxattr` gives the form that base.Overlay promises, as in a user namespace (kernel: filesystems/overlayfs.rst).
    """
    paths = [*overlay.layers, overlay.upper, overlay.scratch]
    if any(character in str(path) for path in paths for character in ",:\\"):
        raise PlatformError(f"A path of the worker has a comma, colon or backslash, which no overlay takes: {paths}.")
    # The topmost comes first here.
    layers = ":".join(str(layer) for layer in reversed(overlay.layers))
    options = f"lowerdir={layers},upperdir={overlay.upper},workdir={overlay.scratch},userxattr"
    if len(options) > _MOUNT_OPTIONS_BYTES:
        raise PlatformError("The paths of the worker are too long for an overlay: use a shorter CLOUDIFY_HOME.")
    driver = {"Name": "local", "Options": {"type": "overlay", "device": "overlay", "o": options}}
    return {
        "Type": "volume",
        "Target": overlay.target,
        "VolumeOptions": {"NoCopy": True, "DriverConfig": driver},
    }
