"""What a run's pod is asked to do: its trees and their places, and the requests of its three programs."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from workers.executors.base import ExecutionSpec, LocalTree, Output, StoredTree, Tree, Trees, UploadForm
from workers.executors.environment import PROXY_VARIABLES
from workers.executors.layout import FILE_SIZE_MARGIN

_OVERLAY_MODE = 0o755
_DIRECTORY_MODE = 0o700
_MOUNT_MODE = 0o755
# A packed output may be larger than its files where these are small or don't compress: headers, and zstd's own.
_PACKED_MARGIN = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PlannedTree:
    """One tree of the pod. `place` is its directory's name in the volume of trees, `name` its name in the spec.

    `is_tracked`: what the command changes is told from what was there before.
    """

    place: str
    target: str
    layers: tuple[Tree, ...]
    mode: int
    name: str = ""
    is_writable: bool = False
    is_tracked: bool = False


@dataclass(frozen=True, slots=True)
class StagedOutput:
    """`key`: the staging name under which the pod stores the tree at `place`."""

    output: Output
    place: str
    key: str


def plan_trees(spec: ExecutionSpec) -> tuple[PlannedTree, ...]:
    planned = [
        PlannedTree(f"mount-{index}", mount.target, (mount.tree,), _MOUNT_MODE)
        for index, mount in enumerate(spec.mounts)
    ]
    if spec.overlay is not None:
        overlay = spec.overlay
        planned.append(
            PlannedTree(
                "overlay",
                overlay.target,
                overlay.layers,
                _OVERLAY_MODE,
                overlay.name,
                is_writable=True,
                is_tracked=True,
            )
        )
    planned += [
        PlannedTree(f"directory-{index}", directory.target, (), _DIRECTORY_MODE, directory.name, is_writable=True)
        for index, directory in enumerate(spec.directories)
    ]
    return tuple(planned)


def stage_outputs(spec: ExecutionSpec, trees: Sequence[PlannedTree], staging: str) -> tuple[StagedOutput, ...]:
    """`staging` is the run's own part of the staging names."""
    places = {tree.name: tree.place for tree in trees if tree.name}
    return tuple(
        StagedOutput(output, places[output.name], f"{staging}/{places[output.name]}") for output in spec.outputs
    )


def command_digest(spec: ExecutionSpec, image: str, key: bytes) -> str:
    """Equal for two runs of one command with the same inputs. Keyed: it is public, and variables are secret."""

    def shown(tree: Tree) -> list[str]:
        return ["local", str(tree.path)] if isinstance(tree, LocalTree) else [tree.owner, tree.digest]

    overlay = spec.overlay
    facts = [
        spec.name,
        list(spec.command),
        spec.working_directory,
        [[shown(mount.tree), mount.target] for mount in spec.mounts],
        [] if overlay is None else [overlay.name, overlay.target, [shown(layer) for layer in overlay.layers]],
        sorted(spec.environment.items()),
        repr(spec.limits),
        spec.network,
        [[directory.name, directory.target] for directory in spec.directories],
        [[output.name, output.owner] for output in spec.outputs],
        image,
    ]
    return hmac.new(key, json.dumps(facts).encode(), "sha256").hexdigest()


def run_digest(name: str) -> str:
    """A label's value for a run's name, which may be longer than labels allow."""
    return hashlib.sha256(name.encode()).hexdigest()[:40]


def fetch_request(
    trees: Sequence[PlannedTree], links: Trees, seconds: int, network: Mapping[str, Any]
) -> dict[str, Any]:
    """Raises whatever `links` raises."""
    asked: list[dict[str, Any]] = []
    for tree in trees:
        layers = [links.link(layer, seconds) for layer in tree.layers]
        asked.append(
            {
                "place": tree.place,
                "layers": [{"url": link.url, "digest": link.digest} for link in layers],
                "inner": _inner_targets(tree, trees),
                "mode": tree.mode,
                "is_tracked": tree.is_tracked,
            }
        )
    return {"trees": asked, "network": dict(network)}


def _inner_targets(tree: PlannedTree, trees: Sequence[PlannedTree]) -> list[str]:
    outer = PurePosixPath(tree.target)
    found: list[str] = []
    for other in trees:
        target = PurePosixPath(other.target)
        if tree.is_writable and target != outer and target.is_relative_to(outer):
            found.append(str(target.relative_to(outer)))
    return found


def pack_request(
    spec: ExecutionSpec, trees: Sequence[PlannedTree], forms: Sequence[tuple[StagedOutput, UploadForm]]
) -> dict[str, Any]:
    tracked = {tree.place for tree in trees if tree.is_tracked}
    return {
        "outputs": [
            {
                "place": staged.place,
                "is_tracked": staged.place in tracked,
                "url": form.url,
                "fields": dict(form.fields),
                "maximum_bytes": form.maximum_bytes,
            }
            for staged, form in forms
        ],
        "limits": {"disk_bytes": spec.limits.disk_bytes, "disk_entries": spec.limits.disk_entries},
    }


def packed_limit(spec: ExecutionSpec) -> int:
    """The largest tarball that the store takes from this run."""
    return spec.limits.disk_bytes + spec.limits.disk_entries * 512 + _PACKED_MARGIN


def command_request(
    spec: ExecutionSpec, trees: Sequence[PlannedTree], environment: Mapping[str, str], filter_program: bytes
) -> dict[str, Any]:
    limits = spec.limits
    return {
        # For a shell a missing program is exit code 127.
        "command": ["/bin/sh", "-c", 'exec "$@"', "sh", *spec.command],
        "directory": spec.working_directory,
        "environment": dict(environment),
        "filter": base64.b64encode(filter_program).decode(),
        "writable": [tree.target for tree in trees if tree.is_writable],
        "limits": {
            "wall_seconds": limits.wall_seconds,
            "stop_seconds": limits.stop_seconds,
            "output_bytes": limits.output_bytes,
            "disk_bytes": limits.disk_bytes,
            "disk_entries": limits.disk_entries,
            "process_count": limits.process_count,
            "file_bytes": limits.disk_bytes + FILE_SIZE_MARGIN,
        },
    }


def proxied(environment: Mapping[str, str], proxy_url: str) -> dict[str, str]:
    """The variables with the run's proxy instead of one on the loopback."""
    return dict(environment) | dict.fromkeys(PROXY_VARIABLES, proxy_url)


def stored_bytes(trees: Sequence[PlannedTree]) -> int:
    """Packed bytes of the layers, as far as they are known."""
    layers = [layer for tree in trees for layer in tree.layers]
    return sum(layer.size_bytes or 0 for layer in layers if isinstance(layer, StoredTree))
