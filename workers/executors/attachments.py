"""The trees of a run as directories of this host, for executors whose sandboxes are on it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from shared.errors import PlatformError
from workers.executors.base import (
    ExecutionResult,
    ExecutionSpec,
    LocalTree,
    OnOutput,
    Output,
    Overlay,
    RunOutcome,
    StoredTree,
    Tree,
    TreeLink,
    Trees,
    UploadForm,
    check_run_name,
)
from workers.executors.mounts import Bind, OverlayMount

# The command sees the mode of the overlay's top directory; other directories are private to its user.
_OVERLAY_MODE = 0o755
_DIRECTORY_MODE = 0o700
_NO_STORE = "These trees have no store that a sandbox elsewhere could reach."


@dataclass(frozen=True, slots=True)
class Attachments:
    """The mounts of a sandbox, and its output trees by name."""

    binds: tuple[Bind, ...]
    overlay: OverlayMount | None
    outputs: Mapping[str, LocalTree]

    @property
    def writable_paths(self) -> tuple[Path, ...]:
        """Directories that the command may write to: watched during the run, cleared of set-id bits after it."""
        upper = () if self.overlay is None else (self.overlay.upper,)
        return (*upper, *(bind.source for bind in self.binds if bind.is_writable))


@dataclass(frozen=True, slots=True)
class Run:
    """One call of Executor.run, its trees attached. `deadline`: time.monotonic()."""

    spec: ExecutionSpec
    attachments: Attachments
    on_output: OnOutput
    cancel: threading.Event
    deadline: float


class DirectoryTrees:
    """Trees of one directory without any snapshots. Implements Trees."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def attach(self, tree: StoredTree) -> AbstractContextManager[Path]:
        raise PlatformError(f"Snapshot {tree.digest[:12]} is not available: these trees have no snapshot store.")

    def make_directory(self, name: str, mode: int) -> Path:
        directory = self._directory / name
        directory.mkdir()
        # Independent of the process's umask.
        directory.chmod(mode)
        return directory

    def link(self, tree: Tree, seconds: int) -> TreeLink:
        raise PlatformError(_NO_STORE)

    def upload_form(self, key: str, maximum_bytes: int, seconds: int) -> UploadForm:
        raise PlatformError(_NO_STORE)

    def take_in(self, output: Output, key: str) -> Tree:
        raise PlatformError(_NO_STORE)

    def discard_staged(self, key: str) -> None:
        """Nothing was staged."""


@contextmanager
def attached(spec: ExecutionSpec, trees: Trees) -> Generator[Attachments]:
    """Attaches the spec's snapshots for the block and makes the directories for the command, which outlive it.

    Raises whatever `trees` raises.
    """
    with ExitStack() as stack:

        def place(tree: Tree) -> Path:
            return tree.path if isinstance(tree, LocalTree) else stack.enter_context(trees.attach(tree))

        binds = [Bind(place(mount.tree), mount.target) for mount in spec.mounts]
        made: dict[str, Path] = {}
        for directory in spec.directories:
            made[directory.name] = trees.make_directory(directory.name, _DIRECTORY_MODE)
            binds.append(Bind(made[directory.name], directory.target, is_writable=True))
        overlay = None
        if spec.overlay is not None:
            overlay = _lay_over(spec.overlay, tuple(place(layer) for layer in spec.overlay.layers), trees)
            made[spec.overlay.name] = overlay.upper
        outputs = {output.name: LocalTree(made[output.name]) for output in spec.outputs}
        yield Attachments(tuple(binds), overlay, outputs)


def _lay_over(overlay: Overlay, layers: tuple[Path, ...], trees: Trees) -> OverlayMount:
    upper = trees.make_directory(overlay.name, _OVERLAY_MODE)
    scratch = trees.make_directory(f"{overlay.name}-scratch", _DIRECTORY_MODE)
    return OverlayMount(overlay.target, layers, upper, scratch)


def run_attached(
    spec: ExecutionSpec,
    trees: Trees,
    on_output: OnOutput,
    cancel: threading.Event,
    run: Callable[[Run], ExecutionResult],
) -> ExecutionResult:
    """Executor.run for executors on this host: attaches the trees, runs, and returns the result with its outputs.

    The time limit counts from here, after everything is attached.
    """
    check_run_name(spec.name)
    if cancel.is_set():
        return ExecutionResult(RunOutcome.CANCELLED, None, "The command was cancelled.", 0.0, None)
    with attached(spec, trees) as attachments:
        started = time.monotonic()
        result = run(Run(spec, attachments, on_output, cancel, started + spec.limits.wall_seconds))
        seconds = time.monotonic() - started
    return dataclasses.replace(result, duration_seconds=seconds, outputs=attachments.outputs)
