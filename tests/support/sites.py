"""Small repositories for scenarios: a Node project without dependencies, whose build script is the scenario."""

from __future__ import annotations

import json

_PACKAGE = {"name": "scenario", "version": "1.0.0", "private": True, "scripts": {"build": "node build.js"}}
_LOCK = {
    "name": "scenario",
    "version": "1.0.0",
    "lockfileVersion": 3,
    "requires": True,
    "packages": {"": {"name": "scenario", "version": "1.0.0"}},
}

WRITE_SITE = """
const fs = require("fs");
fs.mkdirSync("dist", { recursive: true });
fs.writeFileSync("dist/index.html", "<h1>" + CONTENT + "</h1>");
console.log("built " + CONTENT);
"""

# Enough files that upload and deploy take about a second, so that a test can act during them.
MANY_FILES = "for (let i = 0; i < 500; i++) fs.writeFileSync(`dist/${i}.txt`, CONTENT + i);"


def node_site(content: str, *, before: str = "", after: str = "") -> dict[str, str]:
    """Files of a project that writes `dist/index.html` with `content`; `before` and `after` are JavaScript."""
    script = f"const CONTENT = {json.dumps(content)};\n{before}\n{WRITE_SITE}\n{after}\n"
    return node_project(script)


def node_project(script: str) -> dict[str, str]:
    return {
        "package.json": json.dumps(_PACKAGE, indent=2),
        "package-lock.json": json.dumps(_LOCK, indent=2),
        "build.js": script,
    }


def sleep_js(seconds: float) -> str:
    """JavaScript that blocks for a while and says so first."""
    return (
        f'console.log("sleeping");\nAtomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, {seconds * 1000});\n'
    )


# JavaScript that says so and then waits, however long, until `Platform.release` ends its child.
HELD_COMMAND = ["sleep", "86399"]
HOLD = f'console.log("holding");\nrequire("child_process").spawnSync("{HELD_COMMAND[0]}", ["{HELD_COMMAND[1]}"]);\n'

BUILD = {"buildCommand": "node build.js", "outputDirectory": "dist"}
