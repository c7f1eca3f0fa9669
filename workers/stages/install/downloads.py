"""Keeps what package managers downloaded, for an install whose dependencies can't be found by their key.

Another lockfile mostly names nearly the same packages, and an install that reads the whole commit names the same ones.
The managers' own caches are copied into the sandbox before the install and stored after it. They belong to one project
and target: the code of an install may write to them, and only npm, later versions of yarn, Poetry and pip with hashes
compare all that they take out with the lockfile. So nothing passes from one project to another or from a preview to
production, and of npm's cache only the part is kept that is found by the content's digest.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from shared.errors import PlatformError
from workers.executors.base import Directory, ExecutionResult, LocalTree, Mount, Output, StoredTree
from workers.executors.layout import HOME
from workers.frameworks.detection import Detection
from workers.pipeline.background_store import BackgroundStore
from workers.pipeline.carried_files import CarriedFiles, CarriedTree, is_switched_off
from workers.pipeline.stage import StageContext
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import Snapshot, SnapshotStore
from workers.snapshots.tar_format import MAXIMUM_DEPTH

_log = structlog.get_logger(__name__)

KIND = "downloads"
_MAXIMUM_BYTES = 1024 * 1024 * 1024
_MAXIMUM_COUNT = 6
_FORMER, _CURRENT = "/opt/downloads", "/var/cache/downloads"


@dataclass(frozen=True, slots=True)
class _Cache:
    """`place`: the manager's cache, below HOME. `kept`: patterns of paths in it; the rest is not verified at all, or
    belongs to one machine."""

    place: str
    kept: tuple[str, ...]


_CACHES: Mapping[str, _Cache] = {
    "npm": _Cache(".npm/_cacache", ("content-v2/sha512",)),
    "pnpm": _Cache(".local/share/pnpm/store", ("v*/files", "v*/index", "v*/index.db")),
    "yarn": _Cache(".cache/yarn", ("v*",)),
    "berry": _Cache(".yarn/berry", ("cache",)),
    "bun": _Cache(".bun/install/cache", ("*",)),
    "uv": _Cache(".cache/uv", ("archive-v*", "wheels-v*", "sdists-v*", "simple-v*")),
    "pip": _Cache(".cache/pip", ("http*",)),
    "poetry": _Cache(".cache/pypoetry", ("artifacts",)),
    "pipenv": _Cache(".cache/pipenv", ("http*",)),
}
_NODE = ("npm", "pnpm", "yarn", "berry", "bun")
_PYTHON = ("uv", "pip", "poetry", "pipenv")


def _script(names: tuple[str, ...]) -> str:
    """Runs `$1` with the caches in their places, and leaves in them what is kept. Its exit code is that of `$1`."""
    kept = " ".join(f"{name}/{pattern}" for name in names for pattern in _CACHES[name].kept)
    places = " ".join(f"{name}:{_CACHES[name].place}" for name in names)
    return f"""
before() {{
  for pair in {places}; do
    place={HOME}/${{pair#*:}}; name=${{pair%%:*}}
    mkdir -p "${{place%/*}}" {_CURRENT}/$name && ln -s {_CURRENT}/$name "$place"
  done
  cd {_FORMER} 2>/dev/null || return 0
  for path in {kept}; do [ -e "$path" ] && cp -a --parents "$path" {_CURRENT}/; done
}}
after() {{
  cd {_CURRENT} && mkdir .kept || return 0
  for path in {kept}; do
    [ -e "$path" ] && mkdir -p ".kept/${{path%/*}}" && mv "$path" ".kept/$path"
  done
  find . -mindepth 1 -maxdepth 1 ! -name .kept -exec rm -rf {{}} +
  find .kept -type l -lname '/*' -delete
  find .kept -mindepth 1 -maxdepth 1 -exec mv {{}} . \\; ; rmdir .kept
}}
(before) >/dev/null 2>&1
/bin/sh -c "$1"
code=$?
(after) >/dev/null 2>&1
exit $code
"""


@dataclass(frozen=True, slots=True)
class Downloads:
    """What an install needs for its caches: how its script is run, mounts, directories and outputs."""

    names: tuple[str, ...] = ()
    found: CarriedTree | None = None
    components: Mapping[str, str] = field(default_factory=dict[str, str])
    owner: str = ""
    name: str = ""

    def command(self, script: str) -> tuple[str, ...]:
        return ("/bin/sh", "-c", _script(self.names), "sh", script) if self.names else ("/bin/sh", "-c", script)

    @property
    def mounts(self) -> tuple[Mount, ...]:
        found = self.found
        return () if found is None else (Mount(StoredTree(self.owner, found.record.digest), _FORMER),)

    @property
    def directories(self) -> tuple[Directory, ...]:
        return (Directory(self.name, _CURRENT),) if self.names else ()

    @property
    def outputs(self) -> tuple[Output, ...]:
        return (Output(self.name, self.owner),) if self.names else ()


class DownloadCache:
    """Safe between threads. A project has one cache for each lockfile's place and each set of variables."""

    def __init__(self, snapshots: SnapshotStore, index: SnapshotIndex) -> None:
        self._snapshots = snapshots
        self._files = CarriedFiles(snapshots, index, KIND, maximum_bytes=_MAXIMUM_BYTES, maximum_count=_MAXIMUM_COUNT)
        self._storing = BackgroundStore("downloads")

    @contextmanager
    def opened(
        self,
        context: StageContext,
        detection: Detection,
        name: str,
        components: Mapping[str, str],
        *,
        is_needed: bool,
    ) -> Generator[Downloads]:
        """`name`: of the run in its stage. `components`: what installs must have in common to share downloads. Without
        caches if none are needed, or if the project wants none.
        """
        names = _NODE if detection.runtime == "node" else _PYTHON
        if not is_needed or is_switched_off(context):
            yield Downloads()
            return
        components = {
            "package manager": detection.package_manager or detection.runtime,
            "lockfile": detection.lockfile or detection.install_directory,
            **components,
        }
        with self._files.attached(context, components) as found:
            yield Downloads(names, found, components, context.deployment.tenant_id, f"downloads-{name}")

    def keep(self, context: StageContext, downloads: Downloads, result: ExecutionResult) -> None:
        """Stores the caches of an install that succeeded, if they have grown. Called inside of `opened`."""
        tree = result.outputs.get(downloads.name)
        if tree is None:
            return
        former = downloads.found
        tenant_id = context.deployment.tenant_id
        try:
            if isinstance(tree, StoredTree):
                if former is None or former.record.digest != tree.digest:
                    self._files.record(context, downloads.components, Snapshot(tree.digest, tree.size_bytes or 0))
                return
            if not _has_more(tree, former):
                return
            with ExitStack() as stack:
                taken = stack.enter_context(self._snapshots.temporary()) / "files"
                tree.path.rename(taken)
                held = stack.pop_all()
            self._storing.submit(lambda: self._files.save(context, downloads.components, taken), held)
        except (OSError, RuntimeError, PlatformError) as error:
            _log.warning(
                "downloads.not_kept", deployment_id=context.deployment.id, tenant_id=tenant_id, error=str(error)
            )

    def settle(self) -> None:
        """Blocks until all downloads are stored or given up."""
        self._storing.settle()


def _has_more(tree: LocalTree, former: CarriedTree | None) -> bool:
    """Whether the tree has a file that the former one has not, by name."""
    return bool(_files(tree.path) - (set[str]() if former is None else _files(former.path)))


def _files(root: Path) -> set[str]:
    """Paths of the regular files below, relative to `root`."""
    found: set[str] = set()
    # By descriptors, as paths may get longer than the kernel takes. Each level holds one open.
    for directory, directories, files, descriptor in os.fwalk(root):
        place = directory.removeprefix(str(root))
        if place.count("/") >= MAXIMUM_DEPTH:
            # No snapshot takes it.
            directories.clear()
        found.update(
            f"{place}/{name}"
            for name in files
            if stat.S_ISREG(os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode)
        )
    return found
