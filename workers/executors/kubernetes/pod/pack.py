"""The last container of a build's pod: stores the outputs when every process of the command is gone.

Standard library only.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from workers.executors.kubernetes.pod.ending import OUTPUT_REJECTED, OUTPUT_TOO_LARGE, PodFailure
from workers.executors.kubernetes.pod.fetch import read_index
from workers.executors.kubernetes.pod.layout import index_of, tree_directory
from workers.executors.kubernetes.pod.store import Store
from workers.filesystem.descent import open_directory
from workers.snapshots.tar_format import ContentRejected, Entry, disk_bytes
from workers.snapshots.tree_writer import walk, walk_changes, write_tree

Entries = Iterable[tuple[Entry, int, bytes]]


def pack(request: Mapping[str, Any], trees: Path, state: Path, certificates: Path | None) -> None:
    """Raises PodFailure."""
    store = Store(certificates)
    for output in request["outputs"]:
        tarball = state / f"{output['place']}.tar.zst"
        try:
            _write(output, request["limits"], trees, state, tarball)
        except ContentRejected as error:
            raise PodFailure(OUTPUT_REJECTED, str(error)) from error
        if tarball.stat().st_size > output["maximum_bytes"]:
            raise PodFailure(OUTPUT_TOO_LARGE, "it is larger than its limit when it is packed.")
        store.upload(output["url"], output["fields"], tarball)
        tarball.unlink()


def _write(output: Mapping[str, Any], limits: Mapping[str, int], trees: Path, state: Path, tarball: Path) -> None:
    root = open_directory(tree_directory(trees, output["place"]))
    try:
        os.fchmod(root, stat.S_IMODE(os.fstat(root).st_mode) | 0o700)
        entries: Entries = (
            walk_changes(root, read_index(index_of(state, output["place"]))) if output["is_tracked"] else walk(root)
        )
        command = ("zstd", "-3", "-T2", "--check", "--quiet", "-o", str(tarball))
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            write_tree(_bounded(entries, limits), process.stdin.write, maximum_bytes=1 << 62)
            process.stdin.close()
        if process.returncode:
            raise OSError(f"zstd ended with {process.returncode}")
    finally:
        os.close(root)


def _bounded(entries: Entries, limits: Mapping[str, int]) -> Generator[tuple[Entry, int, bytes]]:
    size = 0
    for count, entry in enumerate(entries, 1):
        size += disk_bytes(entry[0].size) if entry[0].size else 0
        if count > limits["disk_entries"]:
            message = f"it made more files, directories and links than its limit of {limits['disk_entries']}."
            raise PodFailure(OUTPUT_TOO_LARGE, message)
        if size > limits["disk_bytes"]:
            message = f"it wrote more than its limit of {limits['disk_bytes'] >> 20} MiB."
            raise PodFailure(OUTPUT_TOO_LARGE, message)
        yield entry
