"""The frameworks that are recognised, in this order; the first row that fits decides."""

from __future__ import annotations

from workers.frameworks.framework import Framework
from workers.frameworks.missing_rows import MISSING_FRAMEWORKS
from workers.frameworks.node_rows import NODE_FRAMEWORKS
from workers.frameworks.python_rows import PYTHON_FRAMEWORKS

# Needs no build: the pages are made in the visitor's browser.
DOCSIFY = Framework(
    "docsify",
    "Docsify",
    "none",
    ".",
    marked_files=("index.html", "docs/index.html"),
    mark=r"\$docsify\b|/docsify(?:@|/|(?:\.min)?\.js)",
)

FRAMEWORKS: tuple[Framework, ...] = (*NODE_FRAMEWORKS, *PYTHON_FRAMEWORKS, DOCSIFY, *MISSING_FRAMEWORKS)

# What is left when no framework fits: a build script of the project's own, commands in its settings, or plain files.
NODE = Framework("node", "a package.json with a build script", "node", "dist")
OTHER = Framework("other", "commands of the project's settings", "none", "dist")
STATIC = Framework("static", "plain static files", "none", ".", files=("index.html",))

# Where the output of a build with no known framework is looked for, in this order.
COMMON_OUTPUT_DIRECTORIES = ("dist", "build", "out", "public", "_site", "site", "output", "www")

# Where the tools of all Node frameworks keep what they made (webpack, Babel, Terser, Nx, Turborepo): the first in the
# project's directory and where the dependencies are, the others only there.
NODE_CACHES = ("node_modules/.cache",)
WORKSPACE_CACHES = (".turbo/cache", ".nx/cache")

BY_NAME: dict[str, Framework] = {framework.name: framework for framework in (*FRAMEWORKS, NODE, OTHER, STATIC)}
