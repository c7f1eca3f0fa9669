"""Carries frameworks' caches (`.next/cache`, `node_modules/.cache`, …) from one build to the next.

Best effort: the framework decides which files are still valid, and a build without these files produces the same
output, so no error here fails a deployment. They are attached as a read-only layer and stored while later stages run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import structlog

from shared.errors import PlatformError
from workers.executors.base import LocalTree, StoredTree, Tree
from workers.frameworks.catalogue import BY_NAME, NODE_CACHES, WORKSPACE_CACHES
from workers.frameworks.detection import Detection
from workers.frameworks.source_tree import SourceTree
from workers.pipeline.background_store import BackgroundStore
from workers.pipeline.carried_files import CarriedFiles, is_switched_off
from workers.pipeline.stage import StageContext
from workers.snapshots.index import SnapshotIndex, SnapshotRecord
from workers.snapshots.store import SnapshotStore
from workers.stages.build.layers import complete, has_directory, take_directories

_log = structlog.get_logger(__name__)

KIND = "build files"
# Some tools never clean up; above this size, the next build starts without files.
_MAXIMUM_BYTES = 1024 * 1024 * 1024
# A new lockfile or variable starts with a set of its own.
_MAXIMUM_COUNT = 10


@dataclass(frozen=True, slots=True)
class CachedFiles:
    """`layer`: files of an earlier build, if any; pinned until the end of the block.

    `store` takes the changes of the build's overlay and stores its files.
    """

    layer: StoredTree | None
    store: Callable[[Tree], None]


class BuildCache:
    """Safe between threads. A project has one set of files for each set of variables and tools."""

    def __init__(self, snapshots: SnapshotStore, index: SnapshotIndex) -> None:
        self._snapshots = snapshots
        self._files = CarriedFiles(snapshots, index, KIND, maximum_bytes=_MAXIMUM_BYTES, maximum_count=_MAXIMUM_COUNT)
        self._storing = BackgroundStore("build-cache")

    @contextmanager
    def opened(
        self, context: StageContext, detection: Detection, source: Path, components: Mapping[str, str]
    ) -> Generator[CachedFiles]:
        """`components` distinguish builds that must not share files."""
        paths = _paths(detection, source)
        if not paths or is_switched_off(context):
            yield CachedFiles(None, lambda _: None)
            return
        components = {
            "framework": detection.framework,
            "root_directory": detection.root_directory,
            "directories": " ".join(paths),
            **components,
        }
        with self._files.attached(context, components) as found:
            layer = None if found is None else StoredTree(context.deployment.tenant_id, found.record.digest)
            record = None if found is None else found.record
            yield CachedFiles(layer, lambda changes: self._keep(context, paths, components, record, changes))

    def settle(self) -> None:
        """Blocks until all files are stored or given up."""
        self._storing.settle()

    def _keep(
        self,
        context: StageContext,
        paths: tuple[str, ...],
        components: Mapping[str, str],
        record: SnapshotRecord | None,
        changes: Tree,
    ) -> None:
        if not isinstance(changes, LocalTree):
            return  # directories are moved out of the tree, which is not allowed with a snapshot
        upper = changes.path
        if not any(has_directory(upper, path) for path in paths):
            return
        try:
            with ExitStack() as stack:
                taken = stack.enter_context(self._snapshots.temporary()) / "files"
                taken.mkdir()
                take_directories(upper, paths, taken)
                below = None
                if record is not None:
                    # Still attached by the caller; this keeps it attached until the files are stored.
                    below = stack.enter_context(self._snapshots.attach(context.deployment.tenant_id, record.digest))
                held = stack.pop_all()
            self._storing.submit(lambda: self._complete(context, components, taken, below), held)
        except (OSError, RuntimeError, PlatformError) as error:
            _log.warning("build_cache.not_taken", deployment_id=context.deployment.id, error=str(error))
            return

    def _complete(self, context: StageContext, components: Mapping[str, str], taken: Path, below: Path | None) -> None:
        complete(taken, below)
        self._files.save(context, components, taken)


def packages_digest(source: Path, detection: Detection) -> str | None:
    """Digest of the lockfile. The dependencies' own digest may differ though their versions are the same."""
    lockfile = SourceTree(source).read(detection.lockfile) if detection.lockfile else None
    return None if lockfile is None else hashlib.sha256(lockfile).hexdigest()


def _paths(detection: Detection, source: Path) -> tuple[str, ...]:
    """Relative to the repository's root. Committed directories are left as they are in the commit."""
    found = [_join(detection.root_directory, path) for path in BY_NAME[detection.framework].caches]
    if detection.runtime == "node":
        for directory in (detection.root_directory, detection.install_directory):
            found += [_join(directory, path) for path in NODE_CACHES]
        found += [_join(detection.install_directory, path) for path in WORKSPACE_CACHES]
    return tuple(path for path in dict.fromkeys(found) if not _is_in(source, path))


def _join(directory: str, path: str) -> str:
    return (PurePosixPath(directory) / path).as_posix()


def _is_in(source: Path, path: str) -> bool:
    """Whether the source has it, or a link on the way to it: then the layer would hide the project's files."""
    for part in PurePosixPath(path).parts:
        source /= part
        if source.is_symlink():
            return True
        if not source.exists():
            return False
    return True
