"""The first container of a build's pod: proves the network policy and unpacks the layers. Standard library only."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from workers.executors.kubernetes.pod.ending import TREE_DAMAGED, PodFailure
from workers.executors.kubernetes.pod.layout import index_of, tree_directory
from workers.executors.kubernetes.pod.network_proof import Address, prove
from workers.executors.kubernetes.pod.store import Store
from workers.filesystem.descent import open_directory
from workers.snapshots.tar_format import ContentRejected, Entry
from workers.snapshots.tree_reader import TreeReader, make_entry, read_tree
from workers.snapshots.tree_writer import Known

_DOWNLOADS = 3


def fetch(request: Mapping[str, Any], trees: Path, state: Path, certificates: Path | None) -> None:
    """Fills `trees`. Raises PodFailure."""
    store = Store(certificates)
    network = request["network"]
    closed: list[Address] = [(host, port) for host, port in network["closed"]]
    own = os.environ.get("KUBERNETES_SERVICE_HOST")
    if own:
        closed.append((own, int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))))
    proxy = (network["proxy"][0], network["proxy"][1]) if network["proxy"] else None
    with ThreadPoolExecutor(max_workers=_DOWNLOADS + 1) as pool:
        proof = pool.submit(prove, store, network["bucket"], closed=closed, proxy=proxy)
        tarballs: dict[str, Path] = {}
        links = {layer["digest"]: layer["url"] for tree in request["trees"] for layer in tree["layers"]}
        downloads = []
        for digest, url in links.items():
            tarballs[digest] = state / f"{digest}.tar.zst"
            downloads.append(pool.submit(store.download, url, tarballs[digest]))
        for done in (*downloads, proof):
            done.result()
    for tree in request["trees"]:
        directory = tree_directory(trees, tree["place"])
        directory.mkdir(mode=0o700)
        for layer in tree["layers"]:
            _lay_over(tarballs[layer["digest"]], layer["digest"], directory)
        for inner in tree["inner"]:
            # Where another tree is mounted; the kubelet would make it as root's.
            (directory / inner).mkdir(parents=True, exist_ok=True)
        directory.chmod(tree["mode"])
        if tree["is_tracked"]:
            _write_index(directory, index_of(state, tree["place"]))
    for tarball in tarballs.values():
        tarball.unlink()


def _lay_over(tarball: Path, digest: str, directory: Path) -> None:
    command = ("zstd", "--decompress", "--stdout", "--quiet", "--memory=128MB", str(tarball))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            found = read_tree(process.stdout, directory, maximum_bytes=1 << 62, make=_make_over).digest
        except ContentRejected as error:
            raise PodFailure(TREE_DAMAGED, f"Snapshot {digest[:12]} is damaged: {error}", digest) from error
    if process.returncode or found != digest:
        raise PodFailure(TREE_DAMAGED, f"Snapshot {digest[:12]} is damaged.", digest)


def _make_over(reader: TreeReader, entry: Entry, name: bytes, chain: list[tuple[bytes, int]]) -> None:
    """As overlayfs merges: an entry hides what a lower layer has at its path, unless both are directories."""
    parent = chain[-1][1]
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        status = None
    if status is not None:
        is_directory = stat.S_ISDIR(status.st_mode)
        if entry.kind == b"5" and is_directory and not entry.is_opaque:
            chain.append((name, open_directory(name, parent)))
            os.fchmod(chain[-1][1], entry.mode | 0o700)
            return
        if is_directory:
            shutil.rmtree(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)
    if entry.kind != b"3":
        make_entry(reader, dataclasses.replace(entry, is_opaque=False), name, chain)


def _write_index(directory: Path, path: Path) -> None:
    with path.open("w") as file:
        for prefix, known in _listing(directory):
            json.dump([prefix.hex(), {name.hex(): [k.inode, k.changed_ns] for name, k in known.items()}], file)
            file.write("\n")


def _listing(directory: Path) -> Sequence[tuple[bytes, dict[bytes, Known]]]:
    found: list[tuple[bytes, dict[bytes, Known]]] = []
    pending = [b""]
    while pending:
        prefix = pending.pop()
        known: dict[bytes, Known] = {}
        with os.scandir(os.fsencode(directory) + b"/" + prefix) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                known[entry.name] = Known.of(status)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(prefix + entry.name + b"/")
        found.append((prefix, known))
    return found


def read_index(path: Path) -> dict[bytes, dict[bytes, Known]]:
    known: dict[bytes, dict[bytes, Known]] = {}
    with path.open() as file:
        for line in file:
            prefix, names = json.loads(line)
            known[bytes.fromhex(prefix)] = {
                bytes.fromhex(name): Known(inode, changed_ns) for name, (inode, changed_ns) in names.items()
            }
    return known
