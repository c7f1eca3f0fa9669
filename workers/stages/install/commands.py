"""The shell command of an install, and its environment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from workers.commands.sandboxed import VIRTUAL_ENVIRONMENT, search_path
from workers.commands.tools import environment, header_variables, programs
from workers.executors.layout import NODE_TARGET
from workers.executors.toolchain import Toolchain
from workers.frameworks.detection import Detection
from workers.pipeline.outputs import Tool


def install_script(detection: Detection, command: str, python: str) -> str:
    """`command`, after the virtual environment that it installs into was made, where it needs one. `python`: the
    interpreter's path.
    """
    if detection.runtime != "python" and not re.search(r"pip|\buv\b|poetry", command):
        return command
    # Without --seed there is no pip in it, which only a command of the user's own can want.
    seed = " --seed" if re.search(r"(?<!uv )\bpip3?\b", command) else ""
    create = f"uv venv --quiet --clear{seed} --python {python} {VIRTUAL_ENVIRONMENT}"
    return f"{create} && {command}"


def install_environment(
    detection: Detection, toolchain: Toolchain, tools: Sequence[Tool], variables: Mapping[str, str]
) -> dict[str, str]:
    """`variables` are the project's, of this stage."""
    return {
        **header_variables(NODE_TARGET, is_read_by_npm=detection.package_manager != "npm"),
        **environment(tools),
        "CI": "1",
        "npm_config_audit": "false",
        "npm_config_fund": "false",
        "npm_config_update_notifier": "false",
        "npm_config_progress": "false",
        **repository_variables(detection),
        **variables,
        "CLOUDIFY": "1",
        "PATH": search_path(toolchain, detection, programs(tools)),
        "VIRTUAL_ENV": VIRTUAL_ENVIRONMENT,
        "UV_PROJECT_ENVIRONMENT": VIRTUAL_ENVIRONMENT,
        # `uv sync` would look for the Python of .python-version, and make the environment again with it. `uv pip` takes
        # it for the environment to install into.
        "UV_PYTHON": VIRTUAL_ENVIRONMENT,
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "UV_LINK_MODE": "copy",
        # Compiled here once: the build sees the layer read-only and would compile at every run.
        "UV_COMPILE_BYTECODE": "1",
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def repository_variables(detection: Detection) -> dict[str, str]:
    """Variables that the repository's files set. NODE_ENV is the build's: an install would leave half of it out."""
    return {name: value for name, value in detection.environment.items() if name != "NODE_ENV"}
