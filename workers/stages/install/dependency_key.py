"""The components of the key of a dependency snapshot: what an install depends on, in the repository and elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from workers.commands.tools import python_of
from workers.executors.toolchain import Toolchain
from workers.frameworks.detection import Detection
from workers.frameworks.install_inputs import DependencyFiles
from workers.pipeline.outputs import Tool


def dependency_components(
    files: DependencyFiles, detection: Detection, toolchain: Toolchain, tools: Sequence[Tool] = ()
) -> dict[str, str]:
    """Name → version, digest or command. Two installs with equal components give the same dependencies.

    The source's digest is not among them; see `workers.frameworks.install_inputs.source_reader`.
    """
    components = {
        "lockfile": files.lockfile,
        "install_command": detection.install_command or "",
        "install_directory": detection.install_directory,
        "platform": toolchain.platform,
    }
    if detection.runtime == "python":
        # A virtual environment leads to its interpreter by path.
        version, interpreter = python_of(tools, toolchain)
        components |= {"python": version, "interpreter": interpreter, "uv": toolchain.uv_version}
    else:
        manager = detection.package_manager or "npm"
        components |= {"node": toolchain.node_version, manager: toolchain.npm_version if manager == "npm" else ""}
        components["package.json"] = files.packages
    components |= {tool.name: tool.version for tool in tools}
    if toolchain.image:
        components["builder image"] = toolchain.image
    components["configuration"] = files.configuration
    return {name: value for name, value in components.items() if value}
