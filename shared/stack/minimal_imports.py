"""`python -m shared.stack.minimal_imports MODULE ARGUMENT…`: runs a module as `python -m` would, with less memory.

structlog and httpx import rich and pygments if they are installed, as the CLI requires. That costs about 6 MB, which a
process that writes JSON lines doesn't need. redis-py imports OpenTelemetry's SDK if it is installed; only a process
that exports spans needs that.
"""

from __future__ import annotations

import os
import runpy
import sys
from typing import Any, cast


def main() -> None:
    modules = cast("dict[str, Any]", sys.modules)
    # None makes an import fail as if the package were missing; the libraries work without it.
    modules["rich"] = None
    modules["pygments"] = None
    if not (os.environ.get("CLOUDIFY_OTLP_ENDPOINT") or os.environ.get("CLOUDIFY_OTLP_ENDPOINT_FILE")):
        modules["opentelemetry"] = None
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
