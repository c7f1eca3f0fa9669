"""Everything that the install stage asks a source tree, as one question with one answer. Runs in the child."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from workers.frameworks.detection import Detection, Overrides, detect
from workers.frameworks.install_inputs import DependencyFiles, read_dependency_files
from workers.frameworks.requests import ToolRequest
from workers.frameworks.source_tree import SourceTree
from workers.frameworks.tool_versions import required_tools
from workers.frameworks.watched_paths import watched_paths


@dataclass(frozen=True, slots=True)
class ProjectQuestion:
    """`node_version`, `npm_version`, `python_version`: of the toolchain. `versions`: the project's variables that
    choose a version.
    """

    root_directory: str
    overrides: Overrides
    node_version: str
    npm_version: str
    python_version: str = ""
    versions: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class ProjectReading:
    """`tools`: what a build fetches besides the toolchain. `notice`: a line for the log about them.

    `watched`: paths that decide whether another commit has to be built. `dependencies` is None without an install.
    """

    detection: Detection
    tools: tuple[ToolRequest, ...]
    notice: str | None
    watched: tuple[str, ...]
    dependencies: DependencyFiles | None


def read_project(root: Path, question: ProjectQuestion, on_read: Callable[[str], None]) -> ProjectReading:
    """`on_read` gets the path of each file before it is read. Raises StageFailure."""
    tree = SourceTree(root, on_read)
    detection = detect(root, Path(question.root_directory), question.overrides, tree)
    tools, notice = required_tools(
        tree,
        detection,
        question.node_version,
        question.npm_version,
        python=question.python_version,
        variables=question.versions,
    )
    return ProjectReading(
        detection=detection,
        tools=tuple(tools),
        notice=notice,
        watched=tuple(watched_paths(tree, detection)),
        dependencies=None if detection.install_command is None else read_dependency_files(tree, detection),
    )
