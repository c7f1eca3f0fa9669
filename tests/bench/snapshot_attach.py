"""A dependency snapshot of 300 MB: saved, attached on the host that has it, and fetched by a host that doesn't."""

from __future__ import annotations

import os
import random
import statistics
import threading
import time
from contextlib import closing
from pathlib import Path

from shared.settings import load_settings
from shared.storage.object_store import S3ArtifactStore
from tests.bench.platform import timed
from tests.support.running_platform import Platform
from workers.commands.trees import StageTrees
from workers.executors.base import ExecutionSpec, Limits, LocalTree, Overlay, RunOutcome, StoredTree
from workers.executors.bubblewrap.executor import BubblewrapExecutor
from workers.executors.toolchain import Toolchain
from workers.filesystem.trees import remove_tree
from workers.snapshots.store import SnapshotStore

_BYTES = 300 * 10**6
_TENANT = "tenant_bench"
_ROUNDS = 5
_LIMITS = Limits(2**30, 2, 64, 2**30, 2**20, 60)


def write_dependencies(directory: Path) -> int:
    """A tree such as npm leaves: files of 1 to 60 KB, 40 a package, of words. Returns how many files."""
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 12))) for _ in range(4000)]
    written = files = 0
    while written < _BYTES:
        package = directory / "node_modules" / f"package-{files // 40}"
        package.mkdir(parents=True, exist_ok=True)
        size = chance.choice((1_000, 2_000, 4_000, 8_000, 60_000))
        text = " ".join(chance.choices(words, k=size // 7))
        (package / f"file-{files}.js").write_text(text)
        written += len(text)
        files += 1
    return files


def measure(platform: Platform, folder: Path) -> None:
    settings = load_settings(platform.child_settings())
    store = S3ArtifactStore(settings.object_store)
    tree = folder / "dependencies"
    files = write_dependencies(tree)
    executor = BubblewrapExecutor.for_host(settings.network, folder / "executions", Toolchain.discover())
    with closing(SnapshotStore(store, folder / "cache", maximum_bytes=2**34)) as here:
        started = time.perf_counter()
        snapshot = here.save(_TENANT, tree)
        _print(
            f"save 300 MB, {files} files ({snapshot.size_bytes / 1e6:.0f} MB packed)", [time.perf_counter() - started]
        )
        with_layers, without = list[float](), list[float]()
        layers = (StoredTree(_TENANT, snapshot.digest),)
        for _ in range(_ROUNDS):
            without.append(timed(lambda: _run_sandbox(here, executor, folder, ())))
            with_layers.append(timed(lambda: _run_sandbox(here, executor, folder, layers)))
        _print("a sandbox with an empty layer", without)
        _print("a sandbox with the snapshot attached, cached here", with_layers)
        just_attached = list[float]()
        for _ in range(_ROUNDS):
            started = time.perf_counter()
            with here.attach(_TENANT, snapshot.digest):
                just_attached.append(time.perf_counter() - started)
        _print("attach alone, cached here", just_attached)
    fetched = list[float]()
    for number in range(3):
        with closing(SnapshotStore(store, folder / f"cold-{number}", maximum_bytes=2**34)) as elsewhere:
            started = time.perf_counter()
            with elsewhere.attach(_TENANT, snapshot.digest):
                fetched.append(time.perf_counter() - started)
        remove_tree(folder / f"cold-{number}")
    _print("attach on another host: fetched, unpacked, verified", fetched)


def _run_sandbox(
    snapshots: SnapshotStore, executor: BubblewrapExecutor, folder: Path, layers: tuple[StoredTree, ...]
) -> None:
    directory = folder / "attach"
    (directory / "layer").mkdir(parents=True)
    overlay = Overlay("upper", "/workspace", (LocalTree(directory / "layer"), *layers))
    spec = ExecutionSpec("bench", ("true",), "/workspace", (), overlay, {}, _LIMITS, "none")
    trees = StageTrees(snapshots, directory)
    result = executor.run(spec, trees, lambda _stream, _data: None, threading.Event())
    remove_tree(directory)
    if result.outcome is not RunOutcome.SUCCESS:
        raise RuntimeError(result.message)


def _print(name: str, seconds: list[float]) -> None:
    low, high = min(seconds) * 1000, max(seconds) * 1000
    middle = statistics.median(seconds) * 1000
    print(f"{name:<66} {middle:8.1f} ms ({low:.1f} to {high:.1f})  load {os.getloadavg()[0]:.1f}", flush=True)
