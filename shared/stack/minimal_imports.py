"""`python -m shared.stack.minimal_imports MODULE ARGUMENT…`: runs a module as `python -m` would, with less memory.

structlog and httpx load rich and pygments when they are installed, which the CLI needs them to be. A process that
writes JSON lines has no use for some 6 MB of them.
"""

from __future__ import annotations

import runpy
import sys
from typing import Any, cast


def main() -> None:
    modules = cast("dict[str, Any]", sys.modules)
    # None makes an import fail, as if the package weren't there; both libraries do without it then.
    modules["rich"] = None
    modules["pygments"] = None
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
