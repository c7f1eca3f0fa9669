"""What stages record for the later ones, as types: `context.inputs[CLONE].source`.

Field names are those of the recorded JSON. Processes of different versions read them, so a new field needs a default.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from workers.frameworks.detection import Detection


@dataclass(frozen=True, slots=True)
class Tool:
    """A package manager or runtime that a project asks for. `digest` names its snapshot."""

    name: str
    version: str
    digest: str


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the outputs of stages."""


class CloneOutput(Output, frozen=True, kw_only=True):
    """`source` is the digest of the tree's snapshot."""

    source: str
    commit_sha: str = msgspec.field(name="commitSha", default="")
    commit_message: str = msgspec.field(name="commitMessage", default="")


class InstallOutput(Output, frozen=True, kw_only=True):
    """`source` and `dependencies` are digests of snapshots; `dependencies` is None if nothing was installed.

    The dependency snapshot is the upper layer that the install left over the source. `watched` are the paths that
    decide whether another commit has to be built.
    """

    source: str
    dependencies: str | None
    detection: Detection
    tools: list[Tool] = msgspec.field(default_factory=list[Tool])
    watched: list[str] = msgspec.field(default_factory=list[str])


class BuildOutput(Output, frozen=True, kw_only=True):
    """`output` is the digest of the output directory's snapshot."""

    output: str


class ArtifactOutput(Output, frozen=True, kw_only=True):
    """`manifest` is the digest of the manifest that names the site's files. Upload and deploy record it."""

    manifest: str
