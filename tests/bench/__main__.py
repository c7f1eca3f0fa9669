"""`python -m tests.bench [name …] [option …]`: runs the benchmarks, or the named ones, one after the other."""

from __future__ import annotations

import importlib
import sys

BENCHMARKS = (
    "platform", "routers", "builds", "queue", "streams", "log-capture", "log-archive", "floods", "recovery", "drain",
    "exporter", "kubernetes",
)  # fmt: skip


def main() -> None:
    for name in [name for name in BENCHMARKS if name in sys.argv[1:]] or BENCHMARKS:
        print(f"== {name}", flush=True)
        importlib.import_module(f"tests.bench.{name.replace('-', '_')}").main()


if __name__ == "__main__":
    main()
